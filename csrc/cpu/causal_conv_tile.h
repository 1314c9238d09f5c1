// The arithmetic of the direct convolution on one sequence and one group of channels (a vector's lanes).
//
// Both directions and D are one table over lags t - s, negative ones for the reverse kernel, zero where no tap is.
// Tokens go in blocks of 8: the product of 8 tokens with an 8 x 8 Toeplitz block takes 15 lags, 23 loads for 64
// multiply-adds, so that arithmetic is the limit, and an output is written once, when all of its sum is in registers.
#pragma once

#include "causal_conv.h"
#include "rows.h"

namespace lyra::cpu::LYRA_ISA {

constexpr int kTokens = 8;

inline int64_t blocks_of(int64_t n) { return (n + kTokens - 1) / kTokens; }

// The lags lowest <= 0 .. highest >= 0 that some pair of tokens has and that a tap (or D) serves.
struct Lags {
  int64_t lowest, highest;

  Lags(int64_t low, int64_t high) : lowest(low), highest(high) {}
  explicit Lags(const CausalConvArgs& a) {
    const int64_t most = longest_sequence(a.layout) - 1;
    highest = a.taps - 1 < most ? a.taps - 1 : most;
    lowest = a.reverse_taps < most ? -a.reverse_taps : -most;
    if (highest < 0) highest = 0;
    if (lowest > 0) lowest = 0;
  }
  Lags flipped() const { return {-highest, -lowest}; }
  // Two blocks of tokens at distance d have lags 8 d - 7 .. 8 d + 7: the distances that any lag falls into.
  int64_t farthest() const { return (highest + kTokens - 1) / kTokens; }
  int64_t nearest() const { return -((kTokens - 1 - lowest) / kTokens); }
  // The table covers the lags of those blocks, with zeros beyond lowest and highest.
  int64_t first() const { return nearest() * kTokens - (kTokens - 1); }
  int64_t table_vectors() const { return (farthest() - nearest() + 2) * kTokens - 1; }
  // Blocks of 8 lags behind and ahead, lag 0 being the first ahead: what gradients are summed for.
  int64_t behind() const { return blocks_of(-lowest); }
  int64_t ahead() const { return highest / kTokens + 1; }
};

// table[lag - lags.first()] of one group; Flipped: that of -lag.
template <class T, bool Flipped>
void build_lags(const CausalConvArgs& a, const Lags& lags, int64_t index, T* table) {
  constexpr int W = kLanes<T>;
  const Group<T> group(index, a.channels);
  const T *kernel = static_cast<const T*>(a.kernel), *reverse = static_cast<const T*>(a.reverse_kernel);
  const T* D = static_cast<const T*>(a.D);
  zero(table, lags.table_vectors() * W);
  const int64_t ahead = Flipped ? -lags.lowest : lags.highest, behind = Flipped ? lags.highest : -lags.lowest;
  for (int i = 0; i < group.lanes; ++i) {
    const int64_t h = group.first + i;
    auto add = [&](int64_t lag, T value) { table[((Flipped ? -lag : lag) - lags.first()) * W + i] += value; };
    for (int64_t l = 0; l < a.taps && l <= ahead; ++l) add(l, kernel[h * a.taps + l]);
    for (int64_t l = 1; l <= behind; ++l) add(-l, reverse[h * a.reverse_taps + l - 1]);
    if (D) add(0, D[h]);
  }
}

// Which pairs (i, j) of an 8 x 8 block have a tap: a causal diagonal block is a triangle, and NaNs of the future
// must not pass through zeros.
enum class Pairs { all, lower, upper };

// acc[i] += sum_j a[i + 7 - j] b[j], or with Correlate sum_j a[i + j] b[j].
template <class T, bool Correlate, Pairs kPairs = Pairs::all>
LYRA_INLINE void multiply_block(const T* a, const T* b, Vec<T> (&acc)[kTokens]) {
  constexpr int W = kLanes<T>, kLast = kTokens - 1;
#pragma GCC unroll 8
  for (int j = 0; j < kTokens; ++j) {
    const Vec<T> x = load(b + (Correlate ? kLast - j : j) * W);
#pragma GCC unroll 8
    for (int i = 0; i < kTokens; ++i) {
      if (kPairs == Pairs::lower && i < j) continue;
      if (kPairs == Pairs::upper && i > j) continue;
      acc[i] += load(a + (i + kLast - j) * W) * x;
    }
  }
}

// out (blocks of 8 tokens) = the convolution of `in` with the table.
template <class T>
void convolve(const T* table, const Lags& lags, const T* in, int64_t blocks, T* out) {
  constexpr int W = kLanes<T>;
  for (int64_t t = 0; t < blocks; ++t) {
    int64_t begin = t - lags.farthest() < 0 ? 0 : t - lags.farthest();
    int64_t end = t - lags.nearest() + 1 > blocks ? blocks : t - lags.nearest() + 1;
    const T* x = in + t * kTokens * W;
    const T* diagonal = table - ((kTokens - 1) + lags.first()) * W;
    Vec<T> acc[kTokens] = {};
    if (lags.lowest == 0) {
      multiply_block<T, false, Pairs::lower>(diagonal, x, acc);
      end = t;
    } else if (lags.highest == 0) {
      multiply_block<T, false, Pairs::upper>(diagonal, x, acc);
      begin = t + 1;
    }
    for (int64_t s = begin; s < end; ++s)
      multiply_block<T, false>(diagonal + (t - s) * kTokens * W, in + s * kTokens * W, acc);
    for (int i = 0; i < kTokens; ++i) store(out + (t * kTokens + i) * W, acc[i]);
  }
}

// sums[lag + 8 behind] += sum_t g_{t+lag} u_t. A block of zeros must lie before and after g's.
template <class T>
void correlate(const Lags& lags, const T* u, const T* g, int64_t blocks, double* sums) {
  constexpr int W = kLanes<T>;
  for (int64_t lag = -lags.behind(); lag < lags.ahead(); ++lag, sums += kTokens * W) {
    const int64_t begin = -lag - 1 > 0 ? -lag - 1 : 0, end = lag > 0 ? blocks - lag : blocks;
    if (begin >= end) continue;
    Vec<T> acc[kTokens] = {};
    for (int64_t s = begin; s < end; ++s)
      multiply_block<T, true>(g + (s + lag) * kTokens * W, u + s * kTokens * W, acc);
    T lanes[kTokens * W];
    for (int i = 0; i < kTokens; ++i) store(lanes + i * W, acc[i]);
    for (int i = 0; i < kTokens * W; ++i) sums[i] += static_cast<double>(lanes[i]);
  }
}

}  // namespace lyra::cpu::LYRA_ISA
