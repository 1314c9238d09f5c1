// Tiles of tokens: how the fused kernels cut a batch into pieces that fit in cache, and sums and norms of their rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "memory.h"
#include "rows.h"
#include "sums.h"
#include "threads.h"

namespace lyra::cpu::LYRA_ISA {

// Tokens begin .. end of one sequence of that length, which starts at row first_row of the activations.
struct Tile {
  int64_t sequence, first_row, length, begin, end;
  int64_t rows() const { return end - begin; }
};

// The real tokens of a batch in tiles of at most max_rows: those of one sequence of nearly equal size, or `even`, all but
// its last of max_rows, so that where tokens lie together tiles begin at cache lines.
class Tiles {
 public:
  Tiles(const Layout& layout, int64_t max_rows, bool even = false) : count_(counted(layout, max_rows)), tiles_(count_) {
    int64_t next = 0;
    for (int64_t s = 0; s < layout.sequences; ++s) {
      const int64_t length = layout.length(s), pieces = (length + max_rows - 1) / max_rows;
      const auto bound = [&](int64_t i) { return even ? std::min(i * max_rows, length) : length * i / pieces; };
      for (int64_t i = 0; i < pieces; ++i) tiles_[next++] = {s, layout.begin(s), length, bound(i), bound(i + 1)};
    }
  }
  int64_t size() const { return count_; }
  const Tile& operator[](int64_t i) const { return tiles_[i]; }

 private:
  static int64_t counted(const Layout& layout, int64_t max_rows) {
    int64_t count = 0;
    for (int64_t s = 0; s < layout.sequences; ++s) count += (layout.length(s) + max_rows - 1) / max_rows;
    return count;
  }
  int64_t count_;
  Buffer<Tile> tiles_;
};

// sums[c] += the sum of column c over the rows.
template <class T>
LYRA_INLINE void add_columns(const T* tile, int64_t stride, int64_t rows, int64_t channels, T* sums) {
  constexpr int W = kLanes<T>;
  for (int64_t c = 0; c < channels; c += W) {
    Vec<T> even = load(sums + c), odd{};
    int64_t t = 0;
    for (; t + 2 <= rows; t += 2) {
      even += load(tile + t * stride + c);
      odd += load(tile + (t + 1) * stride + c);
    }
    if (t < rows) even += load(tile + t * stride + c);
    store(sums + c, even + odd);
  }
}

// ---- root-mean-square norm of tile rows ------------------------------------------------------------------------
// r[t] = 1/sqrt(sum of x[t]^2 / channels + eps); x's padding up to `width` holds zeros. The square roots and divisions
// of all rows are made together, in vectors.
template <class T>
LYRA_INLINE void inverse_rms(const T* x, int64_t stride, int64_t rows, int64_t width, int64_t channels, T eps, T* r) {
  constexpr int W = kLanes<T>;
  for (int64_t t = 0; t < rows; ++t, x += stride) {
    Vec<T> even{}, odd{};
    int64_t c = 0;
    for (; c + 2 * W <= width; c += 2 * W) {
      const Vec<T> a = load(x + c), b = load(x + c + W);
      even += a * a;
      odd += b * b;
    }
    if (c < width) even += load(x + c) * load(x + c);
    r[t] = sum_lanes<T>(even + odd);
  }
  const T count = static_cast<T>(channels);
  for (int64_t t = 0; t < rows; ++t) r[t] = T(1) / std::sqrt(r[t] / count + eps);
}

// x <- x r, in place.
template <class T>
LYRA_INLINE void normalise_rows(T* x, int64_t stride, int64_t rows, int64_t width, int64_t channels, T eps, T* r) {
  constexpr int64_t kBlock = 16;  // rows that stay in L1 between the sum and the scaling
  for (int64_t first = 0; first < rows; first += kBlock, x += kBlock * stride, r += kBlock) {
    const int64_t block = std::min(kBlock, rows - first);
    inverse_rms(x, stride, block, width, channels, eps, r);
    for (int64_t t = 0; t < block; ++t)
      for (int64_t c = 0; c < width; c += kLanes<T>) store(x + t * stride + c, load(x + t * stride + c) * r[t]);
  }
}

}  // namespace lyra::cpu::LYRA_ISA
