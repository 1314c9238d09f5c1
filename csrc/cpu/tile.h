// Tiles of tokens: how the fused kernels cut a batch into pieces that fit in cache, and the rows they are made of.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

#include "dispatch.h"
#include "simd.h"

namespace lyra::cpu::LYRA_ISA {

template <class T>
constexpr int64_t whole_vectors(int64_t channels) {
  return (channels + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

// Uninitialised (or zeroed) memory, aligned to a cache line. Not std::vector: its members compiled here, with this
// instruction set, could be the ones that the linker keeps for everybody.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t size) : data_(static_cast<T*>(::operator new(bytes(size), std::align_val_t{64}))) {}
  Scratch(int64_t size, T value) : Scratch(size) {
    for (int64_t i = 0; i < size; ++i) data_[i] = value;
  }
  Scratch(Scratch&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  Scratch& operator=(Scratch&&) = delete;
  ~Scratch() { ::operator delete(data_, std::align_val_t{64}); }
  operator T*() { return data_; }
  operator const T*() const { return data_; }

 private:
  static std::size_t bytes(int64_t size) { return static_cast<std::size_t>(std::max<int64_t>(size, 1)) * sizeof(T); }
  T* data_;
};

template <class T>
LYRA_INLINE void copy(const T* from, int64_t count, T* to) {
  if (count > 0) std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(T));
}

// f(begin, end) on ranges that cover [0, n): one range's scratch memory serves all of its items.
template <class F>
void over_ranges(const Threads& threads, int64_t n, F&& f) {
  if (n <= 0) return;
  auto body = [](int64_t begin, int64_t end, void* context) {
    if (begin < end) (*static_cast<std::remove_reference_t<F>*>(context))(begin, end);
  };
  if (threads.count <= 1 || n == 1)
    body(0, n, &f);
  else
    threads.run(n, body, &f);
}

// ---- tiles -----------------------------------------------------------------------------------------------------
// Tokens begin .. end of one sequence of that length, which starts at row first_row of the activations.
struct Tile {
  int64_t sequence, first_row, length, begin, end;
  int64_t rows() const { return end - begin; }
};

// The real tokens of a batch in tiles of at most max_rows, those of one sequence of nearly equal size.
class Tiles {
 public:
  Tiles(const Layout& layout, int64_t max_rows) : count_(counted(layout, max_rows)), tiles_(count_) {
    int64_t next = 0;
    for (int64_t s = 0; s < layout.sequences; ++s) {
      const int64_t length = layout.length(s), pieces = (length + max_rows - 1) / max_rows;
      for (int64_t i = 0; i < pieces; ++i)
        tiles_[next++] = {s, layout.begin(s), length, length * i / pieces, length * (i + 1) / pieces};
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
  Scratch<Tile> tiles_;
};

// Zeros in the rows of y (rows of row_bytes) that belong to no sequence.
inline void zero_padding(const Layout& layout, void* y, int64_t row_bytes) {
  if (!layout.lengths) return;
  for (int64_t s = 0; s < layout.sequences; ++s)
    std::memset(static_cast<char*>(y) + (layout.begin(s) + layout.length(s)) * row_bytes, 0,
                static_cast<std::size_t>(layout.padding(s) * row_bytes));
}

// Sums over tokens are made in this many parts, each over a fixed run of tiles, and added in order: the result
// depends neither on the number of threads nor on their timing. A part of few tiles would cost more to clear and to
// add than it saves; the memory stays bounded.
inline int64_t number_of_parts(int64_t tiles, int64_t bytes_per_part) {
  constexpr int64_t kMaxParts = 64, kMinParts = 8, kMaxBytes = int64_t{64} << 20, kTiles = 8;
  const int64_t affordable = kMaxBytes / std::max<int64_t>(bytes_per_part, 1);
  return std::min((tiles + kTiles - 1) / kTiles, std::clamp(affordable, kMinParts, kMaxParts));
}

// parts[0] += parts[1] + parts[2] + ..., each of `size` elements.
template <class T>
void add_parts(T* parts, int64_t count, int64_t size, const Threads& threads) {
  constexpr int64_t kBlock = 1024;
  over_ranges(threads, (size + kBlock - 1) / kBlock, [&](int64_t begin, int64_t end) {
    const int64_t last = std::min(end * kBlock, size);
    for (int64_t part = 1; part < count; ++part)
      for (int64_t i = begin * kBlock; i < last; ++i) parts[i] += parts[part * size + i];
  });
}

// ---- rows ------------------------------------------------------------------------------------------------------
// Rows of `channels` elements into a tile of the compute type, zeros up to `width` (whole vectors).
template <class S, class T = Compute<S>>
LYRA_INLINE void load_rows(const S* x, int64_t rows, int64_t channels, T* tile, int64_t stride, int64_t width) {
  constexpr int W = kLanes<T>;
  for (int64_t t = 0; t < rows; ++t, x += channels, tile += stride) {
    int64_t c = 0;
    for (; c + W <= channels; c += W) store(tile + c, load_as(x + c));
    if (c < channels) {
      store(tile + c, load_first(x + c, static_cast<int>(channels - c)));
      c += W;
    }
    for (; c < width; c += W) store(tile + c, Vec<T>{});
  }
}

template <class S, class T = Compute<S>>
LYRA_INLINE void store_rows(const T* tile, int64_t stride, int64_t rows, int64_t channels, S* y) {
  constexpr int W = kLanes<T>;
  for (int64_t t = 0; t < rows; ++t, y += channels, tile += stride) {
    int64_t c = 0;
    for (; c + W <= channels; c += W) store_as(y + c, load(tile + c));
    if (c < channels) store_first(y + c, load(tile + c), static_cast<int>(channels - c));
  }
}

// The vector of channels c .. of one row: the last is short, and its other lanes read as zero.
template <class S>
LYRA_INLINE Vec<Compute<S>> load_channels(const S* row, int64_t c, int64_t channels) {
  constexpr int W = kLanes<Compute<S>>;
  return c + W <= channels ? load_as(row + c) : load_first(row + c, static_cast<int>(channels - c));
}
template <class S>
LYRA_INLINE void store_channels(S* row, int64_t c, int64_t channels, Vec<Compute<S>> v) {
  constexpr int W = kLanes<Compute<S>>;
  if (c + W <= channels)
    store_as(row + c, v);
  else
    store_first(row + c, v, static_cast<int>(channels - c));
}

template <class T>
LYRA_INLINE void zero_rows(T* tile, int64_t stride, int64_t rows) {
  if (rows > 0) std::memset(tile, 0, static_cast<std::size_t>(rows * stride) * sizeof(T));
}

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
