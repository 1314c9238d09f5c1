// Between activations (rows, channels) in storage and a tile of one group of channels in the compute dtype.
#pragma once

#include "s4d_math.h"

namespace lyra::cpu::LYRA_ISA {

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

inline int64_t longest_sequence(const Layout& layout) {
  int64_t longest = 0;
  for (int64_t s = 0; s < layout.sequences; ++s)
    longest = layout.length(s) > longest ? layout.length(s) : longest;
  return longest;
}

// n rows, each `stride` elements after the one before (negative: backward in time), to tile[n][lanes].
template <class S, class T = Compute<S>>
inline void load_rows(const S* p, int64_t stride, int64_t n, const Group<T>& group, T* tile) {
  if (group.whole())
    for (int64_t t = 0; t < n; ++t) store(tile + t * kLanes<T>, load_as(p + t * stride));
  else
    for (int64_t t = 0; t < n; ++t) store(tile + t * kLanes<T>, load_first(p + t * stride, group.lanes));
}
template <class S, class T = Compute<S>>
inline void store_rows(S* p, int64_t stride, int64_t n, const Group<T>& group, const T* tile) {
  if (group.whole())
    for (int64_t t = 0; t < n; ++t) store_as(p + t * stride, load(tile + t * kLanes<T>));
  else
    for (int64_t t = 0; t < n; ++t) store_first(p + t * stride, load(tile + t * kLanes<T>), group.lanes);
}
// The rows of an array of the compute dtype, added to the tile.
template <class T>
inline void add_rows(const T* p, int64_t stride, int64_t n, const Group<T>& group, T* tile) {
  for (int64_t t = 0; t < n; ++t) {
    const Vec<T> v = group.whole() ? load(p + t * stride) : load_first(p + t * stride, group.lanes);
    store(tile + t * kLanes<T>, load(tile + t * kLanes<T>) + v);
  }
}
template <class S, class T = Compute<S>>
inline void zero_rows(S* p, int64_t stride, int64_t n, const Group<T>& group) {
  for (int64_t t = 0; t < n; ++t)
    for (int i = 0; i < group.lanes; ++i) p[t * stride + i] = S{};
}
template <class T>
inline void prefetch_rows(const T* p, int64_t stride, int64_t n) {
  for (int64_t t = 0; t < n; ++t) __builtin_prefetch(p + t * stride, 0, 2);
}
template <class T>
inline void zero(T* p, int64_t count) {
  for (int64_t i = 0; i < count; ++i) p[i] = T(0);
}

}  // namespace lyra::cpu::LYRA_ISA
