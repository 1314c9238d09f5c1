// Matrix products of a tile of tokens with a weight matrix, for operands that live in L1 and L2.
//
// One register block serves all three products of a linear layer C = A W^T + b, A (tokens, K), W (N, K):
//   forward           C  = A  W^T + b   rows of A against panels of W^T       (pack_transposed, multiply)
//   backward, input   dA = dC W         rows of dC against panels of W        (pack, multiply)
//   backward, weight  dW += dC^T A      columns of dC against columns of A    (add_outer_products)
// A panel is kPanel columns wide, its rows contiguous and zero-filled beyond the last column, so that the inner loop
// knows no tail; the rows left over by the register block take a smaller one of the same source.
//
// The block holds kBlockRows x 2 registers of C: 12 of 16 on SSE and AVX2 (two loads and six broadcasts feed twelve
// multiply-adds, which hides their latency of four cycles at two a cycle), 24 of 32 on AVX-512 and NEON.
#pragma once

#include <algorithm>
#include <cstdint>

#include "simd.h"

namespace lyra::cpu::LYRA_ISA {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kBlockRows = 12;
#else
constexpr int kBlockRows = 6;
#endif
template <class T>
constexpr int kPanel = 2 * kLanes<T>;
// Panels are walked in pieces of this depth, so that a piece stays in L1 while the rows pass by.
constexpr int64_t kBlockDepth = 256;

template <class T>
constexpr int64_t padded(int64_t columns) {
  return (columns + kPanel<T> - 1) / kPanel<T> * kPanel<T>;
}
// Row stride of a tile with so many columns: whole panels, and an odd number of cache lines, so that walking down a
// column does not fall on a few cache sets.
template <class T>
constexpr int64_t tile_stride(int64_t columns) {
  constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(T));
  const int64_t lines = (padded<T>(columns) + line - 1) / line;
  return (lines | 1) * line;
}
template <class T>
constexpr int64_t packed_size(int64_t depth, int64_t columns) {
  return depth * padded<T>(columns);
}

// Panels of W^T: W (columns, depth) row-major.
template <class T>
void pack_transposed(const T* w, int64_t columns, int64_t depth, T* packed) {
  for (int64_t n0 = 0; n0 < columns; n0 += kPanel<T>)
    for (int64_t p = 0; p < depth; ++p)
      for (int64_t n = n0; n < n0 + kPanel<T>; ++n) *packed++ = n < columns ? w[n * depth + p] : T(0);
}
// Panels of W: W (depth, columns) row-major.
template <class T>
void pack(const T* w, int64_t depth, int64_t columns, T* packed) {
  for (int64_t n0 = 0; n0 < columns; n0 += kPanel<T>)
    for (int64_t p = 0; p < depth; ++p)
      for (int64_t n = n0; n < n0 + kPanel<T>; ++n) *packed++ = n < columns ? w[p * columns + n] : T(0);
}

// c[i][0 .. kPanel) = start[i][..] + sum over p of a(i, p) b[p][0 .. kPanel) for i < kRows, where a(i, p) is
// a[i * a_stride + p] or, kColumnsOfA, a[i + p * a_stride]. A null start is zero; stride 0 repeats one row (a bias).
template <int kRows, bool kColumnsOfA, class T>
__attribute__((noinline)) void multiply_block(const T* a, int64_t a_stride, const T* b, int64_t b_stride, int64_t depth,
                                const T* start, int64_t start_stride, T* c, int64_t c_stride) {
  constexpr int W = kLanes<T>;
  Vec<T> acc[kRows][2];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    acc[i][0] = start ? load(start + i * start_stride) : Vec<T>{};
    acc[i][1] = start ? load(start + i * start_stride + W) : Vec<T>{};
  }
  for (int64_t p = 0; p < depth; ++p) {
    const Vec<T> b0 = load(b), b1 = load(b + W);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const T x = kColumnsOfA ? a[i] : a[i * a_stride];
      acc[i][0] += x * b0;
      acc[i][1] += x * b1;
    }
    a += kColumnsOfA ? a_stride : 1;
    b += b_stride;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    store(c + i * c_stride, acc[i][0]);
    store(c + i * c_stride + W, acc[i][1]);
  }
}

template <bool kColumnsOfA, class T, int kRows = kBlockRows - 1>
LYRA_INLINE void multiply_rest(int64_t rows, const T* a, int64_t a_stride, const T* b, int64_t b_stride,
                               int64_t depth, const T* start, int64_t start_stride, T* c, int64_t c_stride) {
  if constexpr (kRows > 0) {
    if (rows == kRows)
      multiply_block<kRows, kColumnsOfA>(a, a_stride, b, b_stride, depth, start, start_stride, c, c_stride);
    else
      multiply_rest<kColumnsOfA, T, kRows - 1>(rows, a, a_stride, b, b_stride, depth, start, start_stride, c,
                                               c_stride);
  }
}

// c (rows, padded(columns)) = bias + a (rows, depth) times packed panels; bias (padded(columns)) or null.
template <class T>
__attribute__((noinline)) void multiply(int64_t rows, int64_t columns, int64_t depth, const T* a, int64_t a_stride,
                                        const T* packed, const T* bias, T* c, int64_t c_stride) {
  for (int64_t n = 0; n < columns; n += kPanel<T>) {
    const T* panel = packed + n * depth;
    for (int64_t p = 0; p == 0 || p < depth; p += kBlockDepth) {
      const int64_t piece = std::min(kBlockDepth, depth - p);
      const T* b = panel + p * kPanel<T>;
      int64_t i = 0;
      for (; i < rows; i += kBlockRows) {
        T* out = c + i * c_stride + n;
        const T* start = p > 0 ? out : bias ? bias + n : nullptr;
        const int64_t start_stride = p > 0 ? c_stride : 0;
        const T* in = a + i * a_stride + p;
        if (rows - i >= kBlockRows)
          multiply_block<kBlockRows, false>(in, a_stride, b, kPanel<T>, piece, start, start_stride, out, c_stride);
        else
          multiply_rest<false>(rows - i, in, a_stride, b, kPanel<T>, piece, start, start_stride, out, c_stride);
      }
    }
  }
}

// dw (n rows, padded(k)) += dc^T a over the tile's rows: dc (rows, n), a (rows, padded(k)).
template <class T>
__attribute__((noinline)) void add_outer_products(int64_t rows, int64_t n, int64_t k, const T* dc,
                                                  int64_t dc_stride, const T* a, int64_t a_stride, T* dw,
                                                  int64_t dw_stride) {
  for (int64_t j = 0; j < k; j += kPanel<T>)
    for (int64_t i = 0; i < n; i += kBlockRows) {
      T* out = dw + i * dw_stride + j;
      if (n - i >= kBlockRows)
        multiply_block<kBlockRows, true>(dc + i, dc_stride, a + j, a_stride, rows, out, dw_stride, out, dw_stride);
      else
        multiply_rest<true>(n - i, dc + i, dc_stride, a + j, a_stride, rows, out, dw_stride, out, dw_stride);
    }
}

}  // namespace lyra::cpu::LYRA_ISA
