// Products by AVX512-BF16: one instruction adds the products of 16 pairs to 16 sums.
//
// A block of c is 12 x 32, 24 registers of 32: two loads of pairs and twelve broadcasts feed 24 instructions.
#include "rows.h"

namespace lyra::cpu::bf16 {
namespace {

constexpr int64_t kRows = 12;
constexpr int64_t kPiece = 256;  // depths of the left operand that are rounded at once

// The first `rows` of c (12, 32) = start + a times b. The left operand's pair p of row i is a[p * pair + i * row], the
// right one's halves of 16 columns lie `half` elements apart; start_stride 0 repeats a row, a null start is zero.
inline void multiply_rows(int64_t rows, int64_t pairs, const uint16_t* a, int64_t pair, int64_t row, const uint16_t* b,
                          int64_t half, const float* start, int64_t start_stride, float* c, int64_t c_stride) {
  __m512 sums[kRows][2];
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) {
    const bool there = start && (i < rows || start_stride == 0);
    sums[i][0] = there ? _mm512_loadu_ps(start + i * start_stride) : _mm512_setzero_ps();
    sums[i][1] = there ? _mm512_loadu_ps(start + i * start_stride + kLanes) : _mm512_setzero_ps();
  }
  for (int64_t p = 0; p < pairs; ++p, b += 2 * kLanes, a += pair) {
    const auto b0 = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b));
    const auto b1 = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + half));
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
      int32_t both;
      std::memcpy(&both, a + i * row, sizeof both);
      const auto x = reinterpret_cast<__m512bh>(_mm512_set1_epi32(both));
      sums[i][0] = _mm512_dpbf16_ps(sums[i][0], x, b0);
      sums[i][1] = _mm512_dpbf16_ps(sums[i][1], x, b1);
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i)
    if (i < rows) {
      _mm512_storeu_ps(c + i * c_stride, sums[i][0]);
      _mm512_storeu_ps(c + i * c_stride + kLanes, sums[i][1]);
    }
}

void multiply(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t a_stride, const uint16_t* packed,
              const float* bias, float* c, int64_t c_stride) {
  alignas(64) uint16_t block[kRows * kPiece];
  const int64_t whole = up_to(depth, kDepth);
  for (int64_t i = 0; i < rows; i += kRows)
    for (int64_t p = 0; p == 0 || p < whole; p += kPiece) {
      const int64_t piece = std::min(kPiece, whole - p);
      for (int64_t r = 0; r < kRows; ++r)
        round_row(a + (i + r) * a_stride + p, i + r < rows ? depth - p : 0, piece, block + r * piece);
      for (int64_t n = 0; n < columns; n += kColumns) {
        float* out = c + i * c_stride + n;
        const float* start = p > 0 ? out : bias ? bias + n : nullptr;
        multiply_rows(rows - i, piece / 2, block, 2, piece, packed + n * whole + p * kLanes, kLanes * whole, start,
                      p > 0 ? c_stride : 0, out, c_stride);
      }
    }
}

void add_outer_products(int64_t rows, int64_t n, int64_t k, const float* dc, int64_t dc_stride, const float* a,
                        int64_t a_stride, float* dw, int64_t dw_stride) {
  const int64_t count = (rows + 1) / 2, columns = up_to(k, kColumns), row = 2 * kLanes;
  Scratch pairs_of_dc(row * count), pairs_of_a(columns * 2 * count);
  pair_rows(a, a_stride, rows, columns, count, pairs_of_a);
  for (int64_t i = 0; i < n; i += kRows) {
    pair_rows(dc + i, dc_stride, rows, std::min(kRows, n - i), count, pairs_of_dc);
    for (int64_t j = 0; j < columns; j += kColumns) {
      float* out = dw + i * dw_stride + j;
      multiply_rows(n - i, count, pairs_of_dc, row, 2, pairs_of_a + j * 2 * count, kLanes * 2 * count, out, dw_stride,
                    out, dw_stride);
    }
  }
}

}  // namespace

const Products kAvx512Bf16 = {pack_transposed, pack, multiply, add_outer_products};

}  // namespace lyra::cpu::bf16
