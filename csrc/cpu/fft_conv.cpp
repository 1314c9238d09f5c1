// The convolution by Fourier transforms and its backward. A work item is one group of channels and one sequence
// (forward) or a fixed share of the sequences (backward), in that order, so that a group's spectrum is made once a
// thread. All that is between activations and activations stays in a tile.
#include "fft_conv.h"

#include "activations.h"
#include "fft_conv_tile.h"
#include "sums.h"
#include "threads.h"

namespace lyra::cpu::LYRA_ISA {
namespace {

constexpr int64_t kMostShared = int64_t{16} << 20;  // bytes of sums; beyond, a group has only one of them

// f(begin, end) on ranges of work items, so many at once that their scratch memory, `bytes` each, is no more than a GiB or
// the input's: at a million tokens a tile is 128 MB.
template <class F>
void for_items(const FftConvArgs& a, const Threads& threads, int64_t items, int64_t bytes, F&& f) {
  if (items == 0) return;
  const int64_t input = a.layout.rows() * a.channels * static_cast<int64_t>(storage_bytes(a.dtype));
  const int64_t parts = std::clamp<int64_t>(std::max(int64_t{1} << 30, input) / std::max<int64_t>(bytes, 1), 1, items);
  for_ranges<Denormals::flush>(threads, parts, [&](int64_t begin, int64_t end) {
    f(items * begin / parts, items * end / parts);
  });
}

// The lags of a call: those that a token of its longest sequence can be reached by.
struct Lags {
  int64_t longest, taps, reverse_taps;

  explicit Lags(const FftConvArgs& a)
      : longest(longest_sequence(a.layout)), taps(std::min(a.taps, longest)),
        reverse_taps(std::min(a.reverse_taps, std::max<int64_t>(longest - 1, 0))) {}
  // Of a transform: an output sees no lag that wraps around if there is room for one side beyond the sequence.
  int64_t points() const { return longest + (reverse_taps ? longest - 1 : std::max<int64_t>(taps - 1, 0)); }
};

template <class T>
Transform<T> transform_of(const Lags& lags) {
  return Transform<T>(Fourier<T>::good((lags.points() + 1) / 2));
}

// The spectrum of a group's kernels by way of a tile of lags, those ahead of the kernel's first at the far end.
template <class T>
void make_spectrum(const FftConvArgs& a, const Lags& lags, const Group<T>& group, const Transform<T>& transform, T* tile,
                   T* spectrum) {
  constexpr int W = kLanes<T>;
  const int64_t size = transform.tile_size();
  zero(tile, size);
  if (lags.taps)
    load_across(static_cast<const T*>(a.kernel) + group.first * a.taps, a.taps, lags.taps, group.lanes, tile, W);
  if (lags.reverse_taps)
    load_across(static_cast<const T*>(a.reverse_kernel) + group.first * a.reverse_taps, a.reverse_taps,
                lags.reverse_taps, group.lanes, tile + size - W, -W);
  if (a.D) store(tile, load(tile) + load_lanes(static_cast<const T*>(a.D) + group.first, group.lanes));
  transform.fourier.forward(tile);
  transform.spectrum_of(tile, spectrum);
}
template <class T>
void store_lags(const FftConvBackwardArgs& b, const Lags& lags, const Group<T>& group, int64_t size, const T* tile) {
  constexpr int W = kLanes<T>;
  const FftConvArgs& a = b.forward;
  T *dkernel = static_cast<T*>(b.dkernel) + group.first * a.taps, *dreverse = static_cast<T*>(b.dreverse_kernel);
  for (int i = 0; i < group.lanes; ++i) zero(dkernel + i * a.taps + lags.taps, a.taps - lags.taps);
  if (lags.taps) store_across(dkernel, a.taps, lags.taps, group.lanes, tile, W);
  if (dreverse) {
    dreverse += group.first * a.reverse_taps;
    for (int i = 0; i < group.lanes; ++i)
      zero(dreverse + i * a.reverse_taps + lags.reverse_taps, a.reverse_taps - lags.reverse_taps);
    if (lags.reverse_taps)
      store_across(dreverse, a.reverse_taps, lags.reverse_taps, group.lanes, tile + size - W, -W);
  }
  if (b.dD) store_lanes(static_cast<T*>(b.dD) + group.first, load(tile), group.lanes);
}

// The activations of a call, and the tiles of one sequence and one group of them.
template <class S>
struct Batch {
  using T = Compute<S>;
  static constexpr int W = kLanes<T>;
  const FftConvArgs& a;
  Activations<const S> u, pregate, postgate;

  explicit Batch(const FftConvArgs& args)
      : a(args), u(a.u, a.order, a.layout, a.channels), pregate(a.pregate, a.pregate_order, a.layout, a.channels),
        postgate(a.postgate, a.postgate_order, a.layout, a.channels) {}

  void load(const Activations<const S>& x, int64_t sequence, const Group<T>& group, T* tile) const {
    x.load(a.layout.begin(sequence), 0, 1, a.layout.length(sequence), group, tile);
  }
  // The first rows of a tile, times those of x, which go through `beside`.
  void multiply(const Activations<const S>& x, int64_t sequence, const Group<T>& group, const T* from, T* beside,
                T* to) const {
    load(x, sequence, group, beside);
    const int64_t size = a.layout.length(sequence) * W;
    for (int64_t i = 0; i < size; i += W)
      LYRA_ISA::store(to + i, LYRA_ISA::load(from + i) * LYRA_ISA::load(beside + i));
  }
  // x, times its gate if it has one, and zeros up to `size`.
  void load_gated(const Activations<const S>& x, bool gated, const Activations<const S>& gate, int64_t sequence,
                  const Group<T>& group, int64_t size, T* beside, T* tile) const {
    load(x, sequence, group, tile);
    const int64_t done = a.layout.length(sequence) * W;
    zero(tile + done, size - done);
    if (gated) multiply(gate, sequence, group, tile, beside, tile);
  }
  void store(const Activations<S>& y, int64_t sequence, const Group<T>& group, const T* tile) const {
    y.store(a.layout.begin(sequence), 0, 1, a.layout.length(sequence), group, tile);
  }
};

template <class S>
void forward(const FftConvArgs& a, const Threads& threads) {
  using T = Compute<S>;
  const Lags lags(a);
  const Activations<S> y(a.y, a.order, a.layout, a.channels);
  y.zero_padding(a.layout);
  if (lags.longest == 0) return;
  const Batch<S> batch(a);
  const Transform<T> transform = transform_of<T>(lags);
  const int64_t sequences = a.layout.sequences, size = transform.tile_size();
  const int64_t beside = a.pregate || a.postgate ? lags.longest * kLanes<T> : 0;
  const int64_t items = groups_of<T>(a.channels) * sequences, bytes = 2 * size * static_cast<int64_t>(sizeof(T));
  for_items(a, threads, items, bytes, [&](int64_t begin, int64_t end) {
    Buffer<T> tile(size), spectrum(transform.spectrum_size()), gate(beside);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t sequence = item % sequences;
      const Group<T> group(item / sequences, a.channels);
      if (item == begin || sequence == 0) make_spectrum<T>(a, lags, group, transform, tile, spectrum);
      if (a.layout.length(sequence) == 0) continue;
      batch.load_gated(batch.u, a.pregate, batch.pregate, sequence, group, size, gate, tile);
      transform.fourier.forward(tile);
      transform.convolve(spectrum, tile, tile);
      transform.fourier.inverse(tile);
      if (a.postgate) batch.multiply(batch.postgate, sequence, group, tile, gate, tile);
      batch.store(y, sequence, group, tile);
    }
  });
}

template <class S>
void backward(const FftConvBackwardArgs& b, const Threads& threads) {
  using T = Compute<S>;
  const FftConvArgs& a = b.forward;
  const Lags lags(a);
  const Batch<S> batch(a);
  const Activations<const S> grad(b.grad, b.grad_order, a.layout, a.channels);
  const Activations<S> du(b.du, a.order, a.layout, a.channels);
  const Activations<S> dpregate(b.dpregate, a.pregate_order, a.layout, a.channels);
  const Activations<S> dpostgate(b.dpostgate, a.postgate_order, a.layout, a.channels);
  du.zero_padding(a.layout);
  if (b.dpregate) dpregate.zero_padding(a.layout);
  if (b.dpostgate) dpostgate.zero_padding(a.layout);
  const Transform<T> transform = transform_of<T>(lags);
  const int64_t groups = groups_of<T>(a.channels), sequences = a.layout.sequences;
  const int64_t size = transform.tile_size(), sums_size = transform.spectrum_size();
  const bool shared = groups * sums_size * static_cast<int64_t>(sizeof(T)) <= kMostShared;
  const int64_t shares = shared ? shares_of_sequences(groups, sequences) : 1;
  const int64_t beside = a.pregate || a.postgate ? lags.longest * kLanes<T> : 0;
  Buffer<T> sums(groups * shares * sums_size);
  const int64_t bytes = (a.postgate ? 4 : 3) * size * static_cast<int64_t>(sizeof(T));
  for_items(a, threads, groups * shares, bytes, [&](int64_t begin, int64_t end) {
    Buffer<T> x(size), g(size), convolved(a.postgate ? size : 0), spectrum(sums_size), gate(beside);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t share = item % shares;
      const Group<T> group(item / shares, a.channels);
      if (item == begin || share == 0) make_spectrum<T>(a, lags, group, transform, x, spectrum);
      zero(sums + item * sums_size, sums_size);
      for (int64_t s = sequences * share / shares; s < sequences * (share + 1) / shares; ++s) {
        if (a.layout.length(s) == 0) continue;
        batch.load_gated(batch.u, a.pregate, batch.pregate, s, group, size, gate, x);
        transform.fourier.forward(x);
        if (a.postgate) {
          transform.convolve(spectrum, x, convolved);
          transform.fourier.inverse(convolved);
          batch.multiply(grad, s, group, convolved, gate, convolved);
          batch.store(dpostgate, s, group, convolved);
        }
        batch.load_gated(grad, a.postgate, batch.postgate, s, group, size, gate, g);
        transform.fourier.forward(g);
        transform.correlate(spectrum, x, g, sums + item * sums_size);
        transform.fourier.inverse(g);
        if (a.pregate) {
          batch.multiply(batch.u, s, group, g, gate, x);
          batch.store(dpregate, s, group, x);
          batch.multiply(batch.pregate, s, group, g, gate, g);
        }
        batch.store(du, s, group, g);
      }
    }
  });
  for_items(a, threads, groups, size * static_cast<int64_t>(sizeof(T)), [&](int64_t begin, int64_t end) {
    Buffer<T> tile(size);
    for (int64_t index = begin; index < end; ++index) {
      T* total = sums + index * shares * sums_size;
      add_parts(total, shares, sums_size, 0, sums_size);
      transform.lags_from(total, tile);
      transform.fourier.inverse(tile);
      store_lags<T>(b, lags, Group<T>(index, a.channels), size, tile);
    }
  });
}

}  // namespace

void fft_conv(const FftConvArgs& args, const Threads& threads) {
  with_storage_type(args.dtype, [&](auto* p) { forward<Pointee<decltype(p)>>(args, threads); });
}

void fft_conv_backward(const FftConvBackwardArgs& args, const Threads& threads) {
  with_storage_type(args.forward.dtype, [&](auto* p) { backward<Pointee<decltype(p)>>(args, threads); });
}

}  // namespace lyra::cpu::LYRA_ISA
