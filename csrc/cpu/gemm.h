// Matrix products of a tile of tokens with a weight matrix, for operands that live in L1 and L2.
//
// One register block serves all three products of a linear layer C = A W^T + b, A (tokens, K), W (N, K):
//   forward           C  = A  W^T + b   rows of A against panels of W^T       (pack_transposed, multiply)
//   backward, input   dA = dC W         rows of dC against panels of W        (pack, multiply)
//   backward, weight  dW += dC^T A      columns of dC against columns of A    (add_outer_products)
// A panel is kPanel columns wide, its rows contiguous and zero-filled beyond the last column, so that the inner loop
// knows no tail; the rows left over by the register block take a smaller one of the same source.
//
// The products themselves are in gemm.cpp, compiled once for all kernels.
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

// c (rows, padded(columns)) = bias + a (rows, depth) times packed panels; bias (padded(columns)) or null.
template <class T>
void multiply(int64_t rows, int64_t columns, int64_t depth, const T* a, int64_t a_stride, const T* packed,
              const T* bias, T* c, int64_t c_stride);

// dw (n rows, padded(k)) += dc^T a over the tile's rows: dc (rows, n), a (rows, padded(k)).
template <class T>
void add_outer_products(int64_t rows, int64_t n, int64_t k, const T* dc, int64_t dc_stride, const T* a,
                        int64_t a_stride, T* dw, int64_t dw_stride);

extern template void multiply(int64_t, int64_t, int64_t, const float*, int64_t, const float*, const float*, float*,
                              int64_t);
extern template void multiply(int64_t, int64_t, int64_t, const double*, int64_t, const double*, const double*, double*,
                              int64_t);
extern template void add_outer_products(int64_t, int64_t, int64_t, const float*, int64_t, const float*, int64_t,
                                        float*, int64_t);
extern template void add_outer_products(int64_t, int64_t, int64_t, const double*, int64_t, const double*, int64_t,
                                        double*, int64_t);

}  // namespace lyra::cpu::LYRA_ISA
