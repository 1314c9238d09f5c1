// Products by AMX: a tile register holds 16 rows of 64 bytes, and one instruction multiplies 16 x 32 by 32 x 16.
//
// A block of c is 32 x 32, four tiles, which need two tiles of each operand: four products for four loads. Rows of the
// left operand are rounded into a block of 32 that stays in L1 while the panels pass by.
#include "rows.h"

namespace lyra::cpu::bf16 {
namespace {

constexpr int64_t kRows = 32;
constexpr int64_t kPiece = 256;  // depths of the left operand that are rounded at once

struct alignas(64) Configuration {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// The tiles of the thread, for as long as this lives.
struct Tiles {
  Tiles() {
    static constexpr Configuration kAll;
    _tile_loadconfig(&kAll);
  }
  ~Tiles() { _tile_release(); }
};

// c (32, 32) = start + a (32, depth) times b, whose halves of 16 columns lie `half` elements apart; start_stride 0
// repeats a row, a null start is zero. Strides in elements.
inline void multiply_block(int64_t depth, const uint16_t* a, int64_t a_stride, const uint16_t* b, int64_t half,
                           const float* start, int64_t start_stride, float* c, int64_t c_stride) {
  const int64_t rows = start_stride * 4, to = c_stride * 4, from = a_stride * 2;
  if (start) {
    _tile_loadd(0, start, rows);
    _tile_loadd(1, start + 16, rows);
    _tile_loadd(2, start + 16 * start_stride, rows);
    _tile_loadd(3, start + 16 * start_stride + 16, rows);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t p = 0; p < depth; p += kDepth) {
    _tile_loadd(4, a + p, from);
    _tile_loadd(5, a + 16 * a_stride + p, from);
    _tile_loadd(6, b + p * 16, 64);
    _tile_loadd(7, b + half + p * 16, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, to);
  _tile_stored(1, c + 16, to);
  _tile_stored(2, c + 16 * c_stride, to);
  _tile_stored(3, c + 16 * c_stride + 16, to);
}

// The same for the first `rows` rows of c and of start, of which there are no more.
inline void multiply_rows(int64_t rows, int64_t depth, const uint16_t* a, int64_t a_stride, const uint16_t* b,
                          int64_t half, const float* start, int64_t start_stride, float* c, int64_t c_stride) {
  if (rows >= kRows) return multiply_block(depth, a, a_stride, b, half, start, start_stride, c, c_stride);
  alignas(64) float block[kRows * kColumns];
  if (start && start_stride) {
    for (int64_t i = 0; i < rows; ++i) std::memcpy(block + i * kColumns, start + i * start_stride, kColumns * 4);
    start = block, start_stride = kColumns;
  }
  multiply_block(depth, a, a_stride, b, half, start, start_stride, block, kColumns);
  for (int64_t i = 0; i < rows; ++i) std::memcpy(c + i * c_stride, block + i * kColumns, kColumns * 4);
}

void multiply(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t a_stride, const uint16_t* packed,
              const float* bias, float* c, int64_t c_stride) {
  const Tiles tiles;
  alignas(64) uint16_t block[kRows * kPiece];
  const int64_t whole = up_to(depth, kDepth);
  for (int64_t i = 0; i < rows; i += kRows)
    for (int64_t p = 0; p == 0 || p < whole; p += kPiece) {
      const int64_t piece = std::min(kPiece, whole - p);
      for (int64_t r = 0; r < kRows; ++r)  // rows beyond the last are zeros, not what was there
        round_row(a + (i + r) * a_stride + p, i + r < rows ? depth - p : 0, piece, block + r * piece);
      for (int64_t n = 0; n < columns; n += kColumns) {
        float* out = c + i * c_stride + n;
        const float* start = p > 0 ? out : bias ? bias + n : nullptr;
        multiply_rows(rows - i, piece, block, piece, packed + n * whole + p * kLanes, kLanes * whole, start,
                      p > 0 ? c_stride : 0, out, c_stride);
      }
    }
}

void add_outer_products(int64_t rows, int64_t n, int64_t k, const float* dc, int64_t dc_stride, const float* a,
                        int64_t a_stride, float* dw, int64_t dw_stride) {
  const Tiles tiles;
  const int64_t tokens = up_to(rows, kDepth), columns = up_to(k, kColumns), wide = up_to(n, kRows);
  Scratch transposed(wide * tokens), pairs_of_dc(kLanes * tokens), pairs_of_a(columns * tokens);
  for (int64_t i = 0; i < wide; i += kLanes) {  // dc^T, tokens contiguous
    pair_rows(dc + i, dc_stride, i < n ? rows : 0, std::min(kLanes, std::max<int64_t>(n - i, 1)), tokens / 2,
              pairs_of_dc);
    for (int64_t t = 0; t < tokens; t += kDepth)
      transpose_pairs(pairs_of_dc + t * kLanes, 2 * kLanes, transposed + i * tokens + t, tokens);
  }
  pair_rows(a, a_stride, rows, columns, tokens / 2, pairs_of_a);
  for (int64_t j = 0; j < columns; j += kColumns)
    for (int64_t i = 0; i < n; i += kRows) {
      float* out = dw + i * dw_stride + j;
      multiply_rows(n - i, tokens, transposed + i * tokens, tokens, pairs_of_a + j * tokens, kLanes * tokens, out,
                    dw_stride, out, dw_stride);
    }
}

}  // namespace

const Products kAmx = {pack_transposed, pack, multiply, add_outer_products};

}  // namespace lyra::cpu::bf16
