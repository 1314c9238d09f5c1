// One read and one write of each activation: a row (a few hundred bytes) stays in L1 between the sum of squares and
// the scaling, so the kernels run at memory speed; nothing else is worth doing here.
//
// Backward, with r = 1/sqrt(mean(x^2) + eps), n = x r:  dx = r (w g - n mean(w g n)),  dweight = sum over rows of g n.
#include "rms_norm.h"

#include <algorithm>
#include <cmath>

#include "rows.h"
#include "sums.h"
#include "threads.h"

namespace lyra::cpu::LYRA_ISA {
namespace {

constexpr int64_t kRowsPerItem = 64;
constexpr int64_t kMaxParts = 64;

template <class S, class T>
LYRA_INLINE T sum_of_squares(const S* x, int64_t channels) {
  Vec<T> acc{};
  over_channels<T>(channels, [&](int64_t c, int lanes) {
    const Vec<T> v = load_lanes(x + c, lanes);
    acc += v * v;
  });
  return sum_lanes<T>(acc);
}

template <class S>
void forward(const RmsNormArgs& a, const Threads& threads) {
  using T = Compute<S>;
  const int64_t items = (a.rows + kRowsPerItem - 1) / kRowsPerItem;
  for_ranges(threads, items, [&](int64_t begin, int64_t end) {
    // Copies: what lies behind `a` the compiler would read again after every store.
    const int64_t channels = a.channels, last = std::min(end * kRowsPerItem, a.rows);
    const T* const weight = static_cast<const T*>(a.weight);
    const T eps = T(a.eps);
    const S* x = static_cast<const S*>(a.x) + begin * kRowsPerItem * channels;
    S* y = static_cast<S*>(a.y) + begin * kRowsPerItem * channels;
    for (int64_t row = begin * kRowsPerItem; row < last; ++row, x += channels, y += channels) {
      const T r = T(1) / std::sqrt(sum_of_squares<S, T>(x, channels) / T(channels) + eps);
      over_channels<T>(channels, [&](int64_t c, int lanes) {
        Vec<T> v = load_lanes(x + c, lanes) * r;
        if (weight) v *= load_lanes(weight + c, lanes);
        store_lanes(y + c, v, lanes);
      });
    }
  });
}

// dx of one row; its share of the weight's gradient is added to dweight, which may be null.
template <class S, class T = Compute<S>>
LYRA_INLINE void backward_row(const S* x, const S* g, const T* weight, int64_t channels, T eps, S* dx, T* dweight) {
  const T r = T(1) / std::sqrt(sum_of_squares<S, T>(x, channels) / T(channels) + eps);
  Vec<T> acc{};
  over_channels<T>(channels, [&](int64_t c, int lanes) {
    const Vec<T> gn = load_lanes(g + c, lanes) * load_lanes(x + c, lanes) * r;
    acc += weight ? gn * load_lanes(weight + c, lanes) : gn;
    if (dweight) store_lanes(dweight + c, load_lanes(dweight + c, lanes) + gn, lanes);
  });
  const T mean = sum_lanes<T>(acc) / T(channels);
  over_channels<T>(channels, [&](int64_t c, int lanes) {
    Vec<T> wg = load_lanes(g + c, lanes);
    if (weight) wg *= load_lanes(weight + c, lanes);
    store_lanes(dx + c, r * (wg - load_lanes(x + c, lanes) * (r * mean)), lanes);
  });
}

template <class S>
void backward(const RmsNormBackwardArgs& b, const Threads& threads) {
  using T = Compute<S>;
  const RmsNormArgs& a = b.forward;
  // The number of parts depends on the shape alone, so that gradients do not depend on the thread count.
  const int64_t parts = std::min((a.rows + kRowsPerItem - 1) / kRowsPerItem, kMaxParts);
  Buffer<T> sums(b.dweight ? std::max<int64_t>(parts, 1) * a.channels : 0, T(0));
  for_ranges(threads, parts, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      T* dweight = b.dweight ? sums + part * a.channels : nullptr;
      for (int64_t row = a.rows * part / parts; row < a.rows * (part + 1) / parts; ++row) {
        const int64_t at = row * a.channels;
        backward_row(static_cast<const S*>(a.x) + at, static_cast<const S*>(b.grad) + at,
                     static_cast<const T*>(a.weight), a.channels, T(a.eps), static_cast<S*>(b.dx) + at, dweight);
      }
    }
  });
  if (!b.dweight) return;
  add_parts<T>(sums, parts, a.channels, threads);
  copy<T>(sums, a.channels, static_cast<T*>(b.dweight));
}

}  // namespace

void rms_norm(const RmsNormArgs& args, const Threads& threads) {
  with_storage_type(args.dtype, [&](auto* p) { forward<Pointee<decltype(p)>>(args, threads); });
}

void rms_norm_backward(const RmsNormBackwardArgs& args, const Threads& threads) {
  with_storage_type(args.forward.dtype, [&](auto* p) { backward<Pointee<decltype(p)>>(args, threads); });
}

}  // namespace lyra::cpu::LYRA_ISA
