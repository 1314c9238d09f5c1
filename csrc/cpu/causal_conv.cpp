// The direct convolution and its backward. Work items and the order of sums are those of the scan: an item is one
// group of channels and one sequence (forward) or a fixed share of the sequences (backward), whatever the number of
// threads.
#include "causal_conv_tile.h"

namespace lyra::cpu::LYRA_ISA {
namespace {

constexpr int64_t kMostItems = 64;          // of the backward: bounds the memory of its sums
constexpr int64_t kLongestShared = 4096;    // beyond, the sums of a group are too large to have several of them

template <class S, class T = Compute<S>>
void load_sequence(const void* base, const CausalConvArgs& a, int64_t sequence, const Group<T>& group, T* tile) {
  const int64_t n = a.layout.length(sequence);
  load_rows(static_cast<const S*>(base) + a.layout.begin(sequence) * a.channels + group.first, a.channels, n, group,
            tile);
  zero(tile + n * kLanes<T>, (blocks_of(n) * kTokens - n) * kLanes<T>);
}

// Writes the rows of a sequence, and zeros to the padding after it.
template <class S, class T = Compute<S>>
void store_sequence(void* base, const CausalConvArgs& a, int64_t sequence, const Group<T>& group, const T* tile) {
  const int64_t n = a.layout.length(sequence);
  S* out = static_cast<S*>(base) + a.layout.begin(sequence) * a.channels + group.first;
  store_rows(out, a.channels, n, group, tile);
  zero_rows(out + n * a.channels, a.channels, a.layout.padding(sequence), group);
}

template <class S>
void forward(const CausalConvArgs& a, const Threads& threads) {
  using T = Compute<S>;
  constexpr int W = kLanes<T>;
  const Lags lags(a);
  const int64_t sequences = a.layout.sequences, rows = blocks_of(longest_sequence(a.layout)) * kTokens;
  for_ranges(threads, groups_of<T>(a.channels) * sequences, [&](int64_t begin, int64_t end) {
    Buffer<T> table(lags.table_vectors() * W), u(rows * W), y(rows * W);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t index = item / sequences, sequence = item % sequences;
      const Group<T> group(index, a.channels);
      if (item == begin || sequence == 0) build_lags<T, false>(a, lags, index, table.data());
      load_sequence<S>(a.u, a, sequence, group, u.data());
      convolve(table.data(), lags, u.data(), blocks_of(a.layout.length(sequence)), y.data());
      store_sequence<S>(a.y, a, sequence, group, y.data());
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
  int64_t shares = groups && longest <= kLongestShared ? kMostItems / groups : 1;
  shares = shares > sequences ? sequences : shares;
  shares = shares < 1 ? 1 : shares;
  const int64_t size = (lags.ahead() + lags.behind()) * kTokens * W, margin = kTokens * W;
  Buffer<double> sums(groups * shares * size);
  for_ranges(threads, groups * shares, [&](int64_t begin, int64_t end) {
    Buffer<T> table(flipped.table_vectors() * W), u(rows * W), g(rows * W + 2 * margin), du(rows * W);
    zero(g.data(), margin);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t index = item / shares, share = item % shares;
      const Group<T> group(index, a.channels);
      if (item == begin || share == 0) build_lags<T, true>(a, flipped, index, table.data());
      zero(sums.data() + item * size, size);
      for (int64_t s = sequences * share / shares; s < sequences * (share + 1) / shares; ++s) {
        const int64_t blocks = blocks_of(a.layout.length(s));
        load_sequence<S>(a.u, a, s, group, u.data());
        load_sequence<S>(b.grad, a, s, group, g.data() + margin);
        zero(g.data() + margin + blocks * kTokens * W, margin);
        convolve(table.data(), flipped, g.data() + margin, blocks, du.data());
        store_sequence<S>(b.du, a, s, group, du.data());
        correlate(lags, u.data(), g.data() + margin, blocks, sums.data() + item * size);
      }
    }
  });
  for_ranges(threads, groups, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      double* total = sums.data() + index * shares * size;
      for (int64_t share = 1; share < shares; ++share)
        for (int64_t i = 0; i < size; ++i) total[i] += total[share * size + i];
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
