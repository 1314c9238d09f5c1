// Sums over tokens, made in parts that threads share. What a part sums and the order in which parts are added depend on
// the shape alone: the result depends neither on the number of threads nor on their timing.
#pragma once

#include <algorithm>
#include <cstdint>

#include "threads.h"

namespace lyra::cpu::LYRA_ISA {

// Parts for sums over tiles, each over a run of tiles. One of few tiles would cost more to clear and to add than it
// saves; the memory stays bounded.
inline int64_t number_of_parts(int64_t tiles, int64_t bytes_per_part) {
  constexpr int64_t kMaxParts = 64, kMinParts = 8, kMaxBytes = int64_t{64} << 20, kTiles = 8;
  const int64_t affordable = kMaxBytes / std::max<int64_t>(bytes_per_part, 1);
  return std::min((tiles + kTiles - 1) / kTiles, std::clamp(affordable, kMinParts, kMaxParts));
}

// Parts for the sums of each group of channels, each over a share of the sequences: at least one, so that every sum is
// written, and not so many that their memory, some 75 KB for a scan of 32 modes and 8 lanes, grows with the batch.
inline int64_t shares_of_sequences(int64_t groups, int64_t sequences) {
  constexpr int64_t kMostItems = 64;  // groups times shares, where there are fewer groups
  return std::max<int64_t>(1, std::min(sequences, groups ? kMostItems / groups : 1));
}

// parts[0] += parts[1] + parts[2] + ..., each of `size` elements: elements begin .. end of them.
template <class T>
LYRA_INLINE void add_parts(T* parts, int64_t count, int64_t size, int64_t begin, int64_t end) {
  for (int64_t part = 1; part < count; ++part)
    for (int64_t i = begin; i < end; ++i) parts[i] += parts[part * size + i];
}
template <class T>
void add_parts(T* parts, int64_t count, int64_t size, const Threads& threads) {
  constexpr int64_t kBlock = 1024;
  for_ranges(threads, (size + kBlock - 1) / kBlock, [&](int64_t begin, int64_t end) {
    add_parts(parts, count, size, begin * kBlock, std::min(end * kBlock, size));
  });
}

}  // namespace lyra::cpu::LYRA_ISA
