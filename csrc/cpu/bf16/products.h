// Matrix products of a tile of tokens with operands rounded to bfloat16 and sums in float32, by the instructions that
// some CPUs have for that: AVX512-BF16, AMX. What gemm.h does, for activations that are stored in bfloat16.
//
// Operands come as float32 rows and are rounded to nearest even on the way. Both sets have the same packed weights:
// for each 16 columns, pairs of consecutive depths, (pair, column, 2); depths beyond the last are zeros.
#pragma once

#include <cstdint>

namespace lyra::cpu::bf16 {

constexpr int64_t kColumns = 32;  // a panel: two of 16 columns; what is multiplied and written is whole panels
constexpr int64_t kDepth = 32;    // depths are padded to this

constexpr int64_t up_to(int64_t n, int64_t whole) { return (n + whole - 1) / whole * whole; }
// Elements of packed weights.
constexpr int64_t packed_size(int64_t depth, int64_t columns) {
  return up_to(depth, kDepth) * up_to(columns, kColumns);
}

struct Products {
  // Packs W^T, W (columns, depth) row-major; or W (depth, columns) row-major.
  void (*pack_transposed)(const float* w, int64_t columns, int64_t depth, uint16_t* packed);
  void (*pack)(const float* w, int64_t depth, int64_t columns, uint16_t* packed);
  // c (rows, whole panels) = bias + a (rows, depth) times packed panels; bias (whole panels) or null.
  void (*multiply)(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t a_stride,
                   const uint16_t* packed, const float* bias, float* c, int64_t c_stride);
  // dw (n rows, whole panels of k) += dc^T a over the tile's rows: dc (rows, n), a (rows, whole panels of k).
  void (*add_outer_products)(int64_t rows, int64_t n, int64_t k, const float* dc, int64_t dc_stride, const float* a,
                             int64_t a_stride, float* dw, int64_t dw_stride);
};

extern const Products kAvx512Bf16, kAmx;  // where they were built

// Those of the instruction set that a kernel takes that this thread calls now, null where it has none.
const Products* products();

}  // namespace lyra::cpu::bf16
