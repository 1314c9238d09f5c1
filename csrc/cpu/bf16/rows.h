// Float32 rows to the layouts of products.h, for the files that are compiled for AVX512-BF16.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "products.h"

namespace lyra::cpu::bf16 {
namespace {  // each file its own, compiled with its own flags

constexpr int64_t kLanes = 16;

inline __mmask16 first_lanes(int64_t n) {
  return static_cast<__mmask16>(n >= kLanes ? 0xffff : n <= 0 ? 0 : (1u << n) - 1);
}
inline __m512i rounded(__m512 low, __m512 high) {  // 32 values in their order
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

// A row of n values; zeros up to `width`, a multiple of 32.
inline void round_row(const float* x, int64_t n, int64_t width, uint16_t* to) {
  for (int64_t c = 0; c < width; c += 2 * kLanes) {
    const __m512 low = _mm512_maskz_loadu_ps(first_lanes(n - c), x + c);
    const __m512 high = _mm512_maskz_loadu_ps(first_lanes(n - c - kLanes), x + c + kLanes);
    _mm512_storeu_si512(to + c, rounded(low, high));
  }
}

// Two rows of up to 16 values as 16 pairs; a null row is zeros.
inline __m512i pairs(const float* even, const float* odd, __mmask16 lanes) {
  const __m512 a = even ? _mm512_maskz_loadu_ps(lanes, even) : _mm512_setzero_ps();
  const __m512 b = odd ? _mm512_maskz_loadu_ps(lanes, odd) : _mm512_setzero_ps();
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, rounded(a, b));
}

// Rows (rows, columns) of x in pairs of rows: (column / 16, pair, 16, 2), `count` pairs, those beyond the rows zeros.
// Columns are rounded up to 16 and read only where they are.
inline void pair_rows(const float* x, int64_t stride, int64_t rows, int64_t columns, int64_t count, uint16_t* to) {
  for (int64_t c = 0; c < columns; c += kLanes)
    for (int64_t p = 0; p < count; ++p, to += 2 * kLanes) {
      const float* even = 2 * p < rows ? x + 2 * p * stride + c : nullptr;
      const float* odd = 2 * p + 1 < rows ? x + (2 * p + 1) * stride + c : nullptr;
      _mm512_storeu_si512(to, pairs(even, odd, first_lanes(columns - c)));
    }
}

// A block of 16 x 16 pairs transposed: rows of pairs, each `from_stride` elements after the one before.
inline void transpose_pairs(const uint16_t* from, int64_t from_stride, uint16_t* to, int64_t to_stride) {
  __m512i x[16], y[16];
  for (int i = 0; i < 16; ++i) x[i] = _mm512_loadu_si512(from + i * from_stride);
  for (int i = 0; i < 8; ++i) {
    y[2 * i] = _mm512_unpacklo_epi32(x[2 * i], x[2 * i + 1]);
    y[2 * i + 1] = _mm512_unpackhi_epi32(x[2 * i], x[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i)  // x[4 i + j]: columns j, j + 4, j + 8, j + 12 of rows 4 i ..
    for (int j = 0; j < 2; ++j) {
      x[4 * i + 2 * j] = _mm512_unpacklo_epi64(y[4 * i + j], y[4 * i + 2 + j]);
      x[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(y[4 * i + j], y[4 * i + 2 + j]);
    }
  for (int j = 0; j < 4; ++j) {
    const __m512i low = _mm512_shuffle_i32x4(x[j], x[4 + j], 0x88), high = _mm512_shuffle_i32x4(x[8 + j], x[12 + j], 0x88);
    const __m512i low2 = _mm512_shuffle_i32x4(x[j], x[4 + j], 0xdd);
    const __m512i high2 = _mm512_shuffle_i32x4(x[8 + j], x[12 + j], 0xdd);
    _mm512_storeu_si512(to + j * to_stride, _mm512_shuffle_i32x4(low, high, 0x88));
    _mm512_storeu_si512(to + (j + 8) * to_stride, _mm512_shuffle_i32x4(low, high, 0xdd));
    _mm512_storeu_si512(to + (j + 4) * to_stride, _mm512_shuffle_i32x4(low2, high2, 0x88));
    _mm512_storeu_si512(to + (j + 12) * to_stride, _mm512_shuffle_i32x4(low2, high2, 0xdd));
  }
}

// Memory for one call.
class Scratch {
 public:
  explicit Scratch(int64_t elements)
      : data_(static_cast<uint16_t*>(
            ::operator new(static_cast<std::size_t>(std::max<int64_t>(elements, 1)) * 2, std::align_val_t{64}))) {}
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { ::operator delete(data_, std::align_val_t{64}); }
  operator uint16_t*() { return data_; }

 private:
  uint16_t* data_;
};

inline void pack(const float* w, int64_t depth, int64_t columns, uint16_t* packed) {
  const int64_t whole = up_to(depth, kDepth), half = up_to(columns, kLanes);
  pair_rows(w, columns, depth, columns, whole / 2, packed);
  std::memset(packed + half * whole, 0, static_cast<std::size_t>((up_to(columns, kColumns) - half) * whole) * 2);
}

inline void pack_transposed(const float* w, int64_t columns, int64_t depth, uint16_t* packed) {
  const int64_t whole = up_to(depth, kDepth);
  Scratch rows(kLanes * whole);
  for (int64_t c = 0; c < up_to(columns, kColumns); c += kLanes) {
    for (int64_t i = 0; i < kLanes; ++i)
      round_row(w + (c + i) * depth, c + i < columns ? depth : 0, whole, rows + i * whole);
    for (int64_t p = 0; p < whole; p += kDepth, packed += kLanes * kDepth)
      transpose_pairs(rows + p, whole, packed, 2 * kLanes);
  }
}

}  // namespace
}  // namespace lyra::cpu::bf16
