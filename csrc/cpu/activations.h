// Activations in either order of memory (see Order), to and from tiles of rows of vectors over channels.
//
// Where tokens of a channel lie together, a tile is transposed on its way, a vector of tokens by a vector of channels
// at a time, in registers: every cache line is still read or written once. A transposing copy in front of a kernel and
// one behind would move each activation through memory four times more: at 8 x 2048 x 64 floats a copy takes 1 ms even
// when it is blocked as torch's is, and a forward pass of the whole layer 6.4 ms.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "prefetch.h"
#include "rows.h"

namespace lyra::cpu::LYRA_ISA {

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define LYRA_SHUFFLES
#endif
#endif

#ifdef LYRA_SHUFFLES
// Exchanges the elements of two rows, `distance` apart, of which one is in a column with that bit and one is not.
template <class T, int distance, int... column>
LYRA_INLINE void exchange(Vec<T>& a, Vec<T>& b, std::integer_sequence<int, column...>) {
  constexpr int W = kLanes<T>;
  const Vec<T> low = __builtin_shufflevector(a, b, (column & distance ? W + column - distance : column)...);
  b = __builtin_shufflevector(a, b, (column & distance ? W + column : column + distance)...);
  a = low;
}
template <class T, int distance = kLanes<T> / 2>
LYRA_INLINE void transpose(Vec<T> (&v)[kLanes<T>]) {
  constexpr int W = kLanes<T>;
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i)
    if (!(i & distance)) exchange<T, distance>(v[i], v[i + distance], std::make_integer_sequence<int, W>());
  if constexpr (distance > 1) transpose<T, distance / 2>(v);
}
#else  // GCC before 12
template <class T>
LYRA_INLINE void transpose(Vec<T> (&v)[kLanes<T>]) {
  constexpr int W = kLanes<T>;
  T lanes[W][W];
  for (int i = 0; i < W; ++i)
    for (int j = 0; j < W; ++j) lanes[j][i] = v[i][j];
  for (int i = 0; i < W; ++i) v[i] = load(lanes[i]);
}
#endif

// f(t, count) for vectors of tokens that cover n; the last one reaches back over the one before rather than be a part.
template <class T, class F>
LYRA_INLINE void over_tokens(int64_t n, F&& f) {
  constexpr int W = kLanes<T>;
  if (n < W) return f(int64_t{0}, static_cast<int>(n));
  int64_t t = 0;
  for (; t + W <= n; t += W) f(t, W);
  if (t < n) f(n - W, W);
}

// n tokens of a group's channels, which are a step apart, to n rows of a tile. Lanes beyond the channels are zero.
template <class S, class T = Compute<S>>
inline void load_across(const S* p, int64_t channel_step, int64_t n, int lanes, T* tile, int64_t row_step) {
  constexpr int W = kLanes<T>;
  over_tokens<T>(n, [&](int64_t t, int count) {
    Vec<T> v[W];
    if (lanes == W && count == W) {
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) v[i] = load_as(p + i * channel_step + t);
    } else {
      for (int i = 0; i < W; ++i) v[i] = i < lanes ? load_lanes(p + i * channel_step + t, count) : Vec<T>{};
    }
    transpose<T>(v);
    if (count == W) {
#pragma GCC unroll 16
      for (int j = 0; j < W; ++j) store(tile + (t + j) * row_step, v[j]);
    } else {
      for (int j = 0; j < count; ++j) store(tile + (t + j) * row_step, v[j]);
    }
  });
}
template <class S, class T = Compute<S>>
inline void store_across(S* p, int64_t channel_step, int64_t n, int lanes, const T* tile, int64_t row_step) {
  constexpr int W = kLanes<T>;
  over_tokens<T>(n, [&](int64_t t, int count) {
    Vec<T> v[W];
    if (count == W) {
#pragma GCC unroll 16
      for (int j = 0; j < W; ++j) v[j] = load(tile + (t + j) * row_step);
    } else {
      for (int j = 0; j < W; ++j) v[j] = j < count ? load(tile + (t + j) * row_step) : Vec<T>{};
    }
    transpose<T>(v);
    if (lanes == W && count == W) {
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) store_as(p + i * channel_step + t, v[i]);
    } else {
      for (int i = 0; i < lanes; ++i) store_lanes(p + i * channel_step + t, v[i], count);
    }
  });
}

// Activations of a batch. E is what stores an element, const where they are only read. A place is a sequence's first
// row, and a token and a channel in it.
template <class E>
class Activations {
  using S = std::remove_const_t<E>;
  using T = Compute<S>;
  using Base = std::conditional_t<std::is_const_v<E>, const void*, void*>;

 public:
  Activations(Base base, Order order, const Layout& layout, int64_t channels)
      : base_(static_cast<E*>(base)), channels_(channels), across_(order == Order::channels_first),
        row_step_(across_ && layout.cu_seqlens ? 1 : channels), token_step_(across_ ? 1 : channels),
        channel_step_(across_ ? layout.max_length : 1) {}

  bool channels_first() const { return across_; }
  E* at(int64_t first_row, int64_t token, int64_t channel) const {
    return base_ + first_row * row_step_ + token * token_step_ + channel * channel_step_;
  }

  // n tokens of one group of channels, each `step` (1 or -1) after the one before, to tile[n][lanes].
  void load(int64_t first_row, int64_t token, int64_t step, int64_t n, const Group<T>& group, T* tile) const {
    constexpr int W = kLanes<T>;
    if (!across_) return load_group(at(first_row, token, group.first), step * channels_, n, group, tile);
    if (n == 0) return;
    const E* p = at(first_row, step > 0 ? token : token - (n - 1), group.first);
    load_across<S>(p, channel_step_, n, group.lanes, step > 0 ? tile : tile + (n - 1) * W, step * W);
  }
  void store(int64_t first_row, int64_t token, int64_t step, int64_t n, const Group<T>& group, const T* tile) const {
    constexpr int W = kLanes<T>;
    if (!across_) return store_group(at(first_row, token, group.first), step * channels_, n, group, tile);
    if (n == 0) return;
    E* p = at(first_row, step > 0 ? token : token - (n - 1), group.first);
    store_across<S>(p, channel_step_, n, group.lanes, step > 0 ? tile : tile + (n - 1) * W, step * W);
  }
  // The lines of these, to be asked for in so many calls.
  LinesAhead lines(int64_t first_row, int64_t token, int64_t step, int64_t n, const Group<T>& group,
                   int64_t calls) const {
    const E* p = at(first_row, across_ && step < 0 ? token - (n - 1) : token, group.first);
    return across_ ? LinesAhead(p, channel_step_ * kBytes, n * kBytes, group.lanes, calls)
                   : LinesAhead(p, step * channels_ * kBytes, group.lanes * kBytes, n, calls);
  }

  // Whole rows of activations that lie channels first, a `stride` apart in the tile.
  void load_rows(int64_t first_row, int64_t token, int64_t rows, T* tile, int64_t stride) const {
    for_groups([&](const Group<T>& group) {
      load_across<S>(at(first_row, token, group.first), channel_step_, rows, group.lanes, tile + group.first, stride);
    });
  }
  void store_rows(int64_t first_row, int64_t token, int64_t rows, const T* tile, int64_t stride) const {
    for_groups([&](const Group<T>& group) {
      store_across<S>(at(first_row, token, group.first), channel_step_, rows, group.lanes, tile + group.first, stride);
    });
  }

  // One row, as a vector in the compute dtype.
  void load_row(int64_t first_row, int64_t token, T* row) const {
    for_groups([&](const Group<T>& group) {
      const E* p = at(first_row, token, group.first);
      if (!across_) return LYRA_ISA::store(row + group.first, load_lanes(p, group.lanes));
      for (int i = 0; i < group.lanes; ++i) row[group.first + i] = to_compute(p[i * channel_step_]);
    });
  }
  void store_row(int64_t first_row, int64_t token, const T* row) const {
    for_groups([&](const Group<T>& group) {
      E* p = at(first_row, token, group.first);
      if (!across_) return store_lanes(p, LYRA_ISA::load(row + group.first), group.lanes);
      for (int i = 0; i < group.lanes; ++i) p[i * channel_step_] = from_compute<S>(row[group.first + i]);
    });
  }

  // The lines of whole rows; none where rows are one after the other, which the hardware sees.
  LinesAhead lines(int64_t first_row, int64_t token, int64_t rows, int64_t calls) const {
    if (!across_) return LinesAhead();
    return LinesAhead(at(first_row, token, 0), channel_step_ * kBytes, rows * kBytes, channels_, calls);
  }

  // Zeros where rows belong to no sequence.
  void zero_padding(const Layout& layout) const {
    if (!across_) return LYRA_ISA::zero_padding(layout, base_, channels_ * static_cast<int64_t>(sizeof(S)));
    for (int64_t s = 0; layout.lengths && s < layout.sequences; ++s)
      for (int64_t c = 0; c < channels_; ++c) zero(at(layout.begin(s), layout.length(s), c), layout.padding(s));
  }

 private:
  static constexpr int64_t kBytes = sizeof(S);

  template <class F>
  void for_groups(F&& f) const {
    for (int64_t index = 0; index < groups_of<T>(channels_); ++index) f(Group<T>(index, channels_));
  }

  E* base_;
  int64_t channels_;
  bool across_;
  int64_t row_step_, token_step_, channel_step_;
};

}  // namespace lyra::cpu::LYRA_ISA
