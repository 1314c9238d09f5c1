// The direct convolution and its backward. Work items and the order of sums are those of the scan: an item is one
// group of channels and one sequence (forward) or a fixed share of the sequences (backward), whatever the number of
// threads.
#include "activations.h"
#include "causal_conv_tile.h"
#include "sums.h"
#include "threads.h"

namespace lyra::cpu::LYRA_ISA {
namespace {

constexpr int64_t kLongestShared = 4096;  // beyond, the sums of a group are too large to have several of them

template <class S>
void load_sequence(const Activations<const S>& x, const Layout& layout, int64_t sequence,
                   const Group<Compute<S>>& group, Compute<S>* tile) {
  constexpr int W = kLanes<Compute<S>>;
  const int64_t n = layout.length(sequence);
  x.load(layout.begin(sequence), 0, 1, n, group, tile);
  zero(tile + n * W, (blocks_of(n) * kTokens - n) * W);
}

template <class S>
void forward(const CausalConvArgs& a, const Threads& threads) {
  using T = Compute<S>;
  constexpr int W = kLanes<T>;
  const Lags lags(a);
  const int64_t sequences = a.layout.sequences, rows = blocks_of(longest_sequence(a.layout)) * kTokens;
  const Activations<const S> input(a.u, a.order, a.layout, a.channels);
  const Activations<S> result(a.y, a.order, a.layout, a.channels);
  result.zero_padding(a.layout);
  for_ranges<Denormals::flush>(threads, groups_of<T>(a.channels) * sequences, [&](int64_t begin, int64_t end) {
    Buffer<T> table(lags.table_vectors() * W), u(rows * W), y(rows * W);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t index = item / sequences, sequence = item % sequences;
      const Group<T> group(index, a.channels);
      if (item == begin || sequence == 0) build_lags<T, false>(a, lags, index, table);
      load_sequence<S>(input, a.layout, sequence, group, u);
      convolve<T>(table, lags, u, blocks_of(a.layout.length(sequence)), y);
      result.store(a.layout.begin(sequence), 0, 1, a.layout.length(sequence), group, y);
    }
  });
}

template <class T>
void store_sums(const CausalConvBackwardArgs& b, const Lags& lags, int64_t index, const double* sums) {
  const CausalConvArgs& a = b.forward;
  const Group<T> group(index, a.channels);
  const int64_t zero_lag = lags.behind() * kTokens;
  for (int i = 0; i < group.lanes; ++i) {
    const int64_t h = group.first + i;
    auto sum = [&](int64_t lag) { return static_cast<T>(sums[(lag + zero_lag) * kLanes<T> + i]); };
    for (int64_t l = 0; l < a.taps; ++l)
      static_cast<T*>(b.dkernel)[h * a.taps + l] = l < lags.ahead() * kTokens ? sum(l) : T(0);
    for (int64_t l = 1; l <= a.reverse_taps; ++l)
      static_cast<T*>(b.dreverse_kernel)[h * a.reverse_taps + l - 1] = l <= zero_lag ? sum(-l) : T(0);
    if (b.dD) static_cast<T*>(b.dD)[h] = sum(0);
  }
}

template <class S>
void backward(const CausalConvBackwardArgs& b, const Threads& threads) {
  using T = Compute<S>;
  constexpr int W = kLanes<T>;
  const CausalConvArgs& a = b.forward;
  const Lags lags(a), flipped = lags.flipped();
  const int64_t groups = groups_of<T>(a.channels), sequences = a.layout.sequences;
  const int64_t longest = longest_sequence(a.layout), rows = blocks_of(longest) * kTokens;
  const int64_t shares = longest <= kLongestShared ? shares_of_sequences(groups, sequences) : 1;
  const int64_t size = (lags.ahead() + lags.behind()) * kTokens * W, margin = kTokens * W;
  Buffer<double> sums(groups * shares * size);
  const Activations<const S> input(a.u, a.order, a.layout, a.channels);
  const Activations<const S> grad(b.grad, b.grad_order, a.layout, a.channels);
  const Activations<S> result(b.du, a.order, a.layout, a.channels);
  result.zero_padding(a.layout);
  for_ranges<Denormals::flush>(threads, groups * shares, [&](int64_t begin, int64_t end) {
    Buffer<T> table(flipped.table_vectors() * W), u(rows * W), g(rows * W + 2 * margin), du(rows * W);
    zero<T>(g, margin);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t index = item / shares, share = item % shares;
      const Group<T> group(index, a.channels);
      if (item == begin || share == 0) build_lags<T, true>(a, flipped, index, table);
      zero<double>(sums + item * size, size);
      for (int64_t s = sequences * share / shares; s < sequences * (share + 1) / shares; ++s) {
        const int64_t blocks = blocks_of(a.layout.length(s));
        load_sequence<S>(input, a.layout, s, group, u);
        load_sequence<S>(grad, a.layout, s, group, g + margin);
        zero<T>(g + margin + blocks * kTokens * W, margin);
        convolve<T>(table, flipped, g + margin, blocks, du);
        result.store(a.layout.begin(s), 0, 1, a.layout.length(s), group, du);
        correlate<T>(lags, u, g + margin, blocks, sums + item * size);
      }
    }
  });
  for_ranges<Denormals::flush>(threads, groups, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      double* total = sums + index * shares * size;
      add_parts(total, shares, size, 0, size);
      store_sums<T>(b, lags, index, total);
    }
  });
}

}  // namespace

void causal_conv(const CausalConvArgs& args, const Threads& threads) {
  with_storage_type(args.dtype, [&](auto* p) { forward<Pointee<decltype(p)>>(args, threads); });
}

void causal_conv_backward(const CausalConvBackwardArgs& args, const Threads& threads) {
  with_storage_type(args.forward.dtype, [&](auto* p) { backward<Pointee<decltype(p)>>(args, threads); });
}

}  // namespace lyra::cpu::LYRA_ISA
