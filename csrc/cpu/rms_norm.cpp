// One read and one write of each activation: a row (a few hundred bytes) stays in L1 between the sum of squares and
// the scaling, so the kernels run at memory speed; nothing else is worth doing here.
//
// Backward, with r = 1/sqrt(mean(x^2) + eps), n = x r:  dx = r (w g - n mean(w g n)),  dweight = sum over rows of g n.
#include "rms_norm.h"

#include <cmath>
#include <vector>

#include "simd.h"

namespace lyra::cpu::LYRA_ISA {
namespace {

constexpr int64_t kRowsPerItem = 64;
constexpr int64_t kMaxPartials = 64;

template <class S, class T>
LYRA_INLINE T sum_of_squares(const S* x, int64_t channels) {
  constexpr int W = kLanes<T>;
  Vec<T> acc{};
  int64_t c = 0;
  for (; c + W <= channels; c += W) {
    const Vec<T> v = load_as(x + c);
    acc += v * v;
  }
  const Vec<T> v = load_first(x + c, static_cast<int>(channels - c));
  acc += v * v;
  return sum_lanes<T>(acc);
}

// Calls f(channel, lanes) on whole registers, then once on the remainder.
template <int W, class F>
LYRA_INLINE void over_channels(int64_t channels, F&& f) {
  int64_t c = 0;
  for (; c + W <= channels; c += W) f(c, W);
  if (c < channels) f(c, static_cast<int>(channels - c));
}

template <class S>
LYRA_INLINE Vec<Compute<S>> read(const S* p, int n) {
  return n == kLanes<Compute<S>> ? load_as(p) : load_first(p, n);
}
template <class S>
LYRA_INLINE void write(S* p, Vec<Compute<S>> v, int n) {
  n == kLanes<Compute<S>> ? store_as(p, v) : store_first(p, v, n);
}

template <class S>
void forward(const RmsNormArgs& a, const Threads& threads) {
  using T = Compute<S>;
  const int64_t items = (a.rows + kRowsPerItem - 1) / kRowsPerItem;
  threads.for_each(items, [&](int64_t item) {
    const int64_t last = (item + 1) * kRowsPerItem < a.rows ? (item + 1) * kRowsPerItem : a.rows;
    for (int64_t row = item * kRowsPerItem; row < last; ++row) {
      const S* x = static_cast<const S*>(a.x) + row * a.channels;
      S* y = static_cast<S*>(a.y) + row * a.channels;
      const T* weight = static_cast<const T*>(a.weight);
      const T r = T(1) / std::sqrt(sum_of_squares<S, T>(x, a.channels) / T(a.channels) + T(a.eps));
      over_channels<kLanes<T>>(a.channels, [&](int64_t c, int n) {
        Vec<T> v = read(x + c, n) * r;
        if (weight) v *= read(weight + c, n);
        write(y + c, v, n);
      });
    }
  });
}

template <class S>
void backward(const RmsNormBackwardArgs& b, const Threads& threads) {
  using T = Compute<S>;
  const RmsNormArgs& a = b.forward;
  // The number of partial sums depends on the shape alone, so that gradients do not depend on the thread count.
  const int64_t wanted = (a.rows + kRowsPerItem - 1) / kRowsPerItem;
  const int64_t items = wanted < kMaxPartials ? wanted : kMaxPartials;
  std::vector<T> partial(b.dweight ? items * a.channels : 0, T(0));
  threads.for_each(items, [&](int64_t item) {
    T* dweight = partial.data() + item * a.channels;
    for (int64_t row = a.rows * item / items; row < a.rows * (item + 1) / items; ++row) {
      const S* x = static_cast<const S*>(a.x) + row * a.channels;
      const S* g = static_cast<const S*>(b.grad) + row * a.channels;
      S* dx = static_cast<S*>(b.dx) + row * a.channels;
      const T* weight = static_cast<const T*>(a.weight);
      const T r = T(1) / std::sqrt(sum_of_squares<S, T>(x, a.channels) / T(a.channels) + T(a.eps));
      Vec<T> acc{};
      over_channels<kLanes<T>>(a.channels, [&](int64_t c, int n) {
        const Vec<T> gn = read(g + c, n) * read(x + c, n) * r;
        acc += weight ? gn * read(weight + c, n) : gn;
        if (b.dweight) write(dweight + c, read(dweight + c, n) + gn, n);
      });
      const T mean = sum_lanes<T>(acc) / T(a.channels);
      over_channels<kLanes<T>>(a.channels, [&](int64_t c, int n) {
        Vec<T> wg = read(g + c, n);
        if (weight) wg *= read(weight + c, n);
        write(dx + c, r * (wg - read(x + c, n) * (r * mean)), n);
      });
    }
  });
  if (!b.dweight) return;
  T* dweight = static_cast<T*>(b.dweight);
  for (int64_t c = 0; c < a.channels; ++c) {
    T sum = 0;
    for (int64_t item = 0; item < items; ++item) sum += partial[item * a.channels + c];
    dweight[c] = sum;
  }
}

}  // namespace

void rms_norm(const RmsNormArgs& args, const Threads& threads) {
  with_storage_type(args.dtype, [&](auto* p) { forward<Pointee<decltype(p)>>(args, threads); });
}

void rms_norm_backward(const RmsNormBackwardArgs& args, const Threads& threads) {
  with_storage_type(args.forward.dtype, [&](auto* p) { backward<Pointee<decltype(p)>>(args, threads); });
}

}  // namespace lyra::cpu::LYRA_ISA
