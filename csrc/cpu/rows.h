// Between activations (rows, channels) in storage and rows of vectors in the compute dtype: whole rows, or the channels
// of one vector of many rows.
#pragma once

#include <cstdint>
#include <cstring>

#include "dispatch.h"
#include "memory.h"
#include "simd.h"

namespace lyra::cpu::LYRA_ISA {

template <class T>
constexpr int64_t whole_vectors(int64_t channels) {
  return (channels + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

inline int64_t longest_sequence(const Layout& layout) {
  int64_t longest = 0;
  for (int64_t s = 0; s < layout.sequences; ++s)
    longest = layout.length(s) > longest ? layout.length(s) : longest;
  return longest;
}

// Zeros in the rows of y (rows of row_bytes) that belong to no sequence.
inline void zero_padding(const Layout& layout, void* y, int64_t row_bytes) {
  if (!layout.lengths) return;
  for (int64_t s = 0; s < layout.sequences; ++s)
    zero(static_cast<char*>(y) + (layout.begin(s) + layout.length(s)) * row_bytes, layout.padding(s) * row_bytes);
}

// ---- vectors of one row ------------------------------------------------------------------------------------------
// Calls f(c, lanes) for the vectors of a row: first the whole ones, then the one that is not.
template <class T, class F>
LYRA_INLINE void over_channels(int64_t channels, F&& f) {
  constexpr int W = kLanes<T>;
  int64_t c = 0;
  for (; c + W <= channels; c += W) f(c, W);
  if (c < channels) f(c, static_cast<int>(channels - c));
}

// The first `lanes` of a vector; the others read as zero and are not written.
template <class S>
LYRA_INLINE Vec<Compute<S>> load_lanes(const S* p, int lanes) {
  return lanes == kLanes<Compute<S>> ? load_as(p) : load_first(p, lanes);
}
template <class S>
LYRA_INLINE void store_lanes(S* p, Vec<Compute<S>> v, int lanes) {
  lanes == kLanes<Compute<S>> ? store_as(p, v) : store_first(p, v, lanes);
}

// The vector of channels c .. of one row.
template <class S>
LYRA_INLINE Vec<Compute<S>> load_channels(const S* row, int64_t c, int64_t channels) {
  constexpr int W = kLanes<Compute<S>>;
  return c + W <= channels ? load_as(row + c) : load_first(row + c, static_cast<int>(channels - c));
}
template <class S>
LYRA_INLINE void store_channels(S* row, int64_t c, int64_t channels, Vec<Compute<S>> v) {
  constexpr int W = kLanes<Compute<S>>;
  c + W <= channels ? store_as(row + c, v) : store_first(row + c, v, static_cast<int>(channels - c));
}

// ---- whole rows --------------------------------------------------------------------------------------------------
// Rows of `channels` elements into a tile, zeros up to `width` (whole vectors).
template <class S, class T = Compute<S>>
LYRA_INLINE void load_rows(const S* x, int64_t rows, int64_t channels, T* tile, int64_t stride, int64_t width) {
  for (int64_t t = 0; t < rows; ++t, x += channels, tile += stride) {
    over_channels<T>(channels, [&](int64_t c, int lanes) { store(tile + c, load_lanes(x + c, lanes)); });
    for (int64_t c = whole_vectors<T>(channels); c < width; c += kLanes<T>) store(tile + c, Vec<T>{});
  }
}

template <class S, class T = Compute<S>>
LYRA_INLINE void store_rows(const T* tile, int64_t stride, int64_t rows, int64_t channels, S* y) {
  for (int64_t t = 0; t < rows; ++t, y += channels, tile += stride)
    over_channels<T>(channels, [&](int64_t c, int lanes) { store_lanes(y + c, load(tile + c), lanes); });
}

// ---- one vector of channels, of many rows ------------------------------------------------------------------------
// The channels of one group: a vector's worth, fewer in the last group.
template <class T>
struct Group {
  int64_t first;
  int lanes;
  Group(int64_t group, int64_t channels)
      : first(group * kLanes<T>),
        lanes(static_cast<int>(channels - first < kLanes<T> ? channels - first : kLanes<T>)) {}
  bool whole() const { return lanes == kLanes<T>; }
};

template <class T>
int64_t groups_of(int64_t channels) {
  return (channels + kLanes<T> - 1) / kLanes<T>;
}

// n rows, each `stride` elements after the one before (negative: backward in time), to tile[n][lanes].
template <class S>
inline void load_group(const S* p, int64_t stride, int64_t n, const Group<Compute<S>>& group, Compute<S>* tile) {
  constexpr int W = kLanes<Compute<S>>;
  if (group.whole())
    for (int64_t t = 0; t < n; ++t) store(tile + t * W, load_as(p + t * stride));
  else
    for (int64_t t = 0; t < n; ++t) store(tile + t * W, load_first(p + t * stride, group.lanes));
}
template <class S>
inline void store_group(S* p, int64_t stride, int64_t n, const Group<Compute<S>>& group, const Compute<S>* tile) {
  constexpr int W = kLanes<Compute<S>>;
  if (group.whole())
    for (int64_t t = 0; t < n; ++t) store_as(p + t * stride, load(tile + t * W));
  else
    for (int64_t t = 0; t < n; ++t) store_first(p + t * stride, load(tile + t * W), group.lanes);
}
// The rows of an array of the compute dtype, added to the tile.
template <class T>
inline void add_group(const T* p, int64_t stride, int64_t n, const Group<T>& group, T* tile) {
  for (int64_t t = 0; t < n; ++t)
    store(tile + t * kLanes<T>, load(tile + t * kLanes<T>) + load_lanes(p + t * stride, group.lanes));
}
}  // namespace lyra::cpu::LYRA_ISA
