// Finds a block's tokens in a batch of any layout.
#pragma once

#include "platform.cuh"

namespace lyra::cuda {

struct Tile {
  int64_t sequence;
  int64_t row;     // where the sequence's token 0 lies
  int64_t start;   // the tile's first token
  int64_t length;  // the sequence's real tokens
  int64_t rows;    // the sequence's rows, padding included: those from length on hold zeros
};

// Tile number `slot` of Layout::tiles(1 << shift), and the slot of a sequence's first tile. A slot past the end of its
// packed sequence has start >= rows. Sizes are powers of two and slots fit 32 bits: a division of 64-bit integers is a
// function call on the device, for which registers are spilled.
__device__ inline int64_t tiles_per_sequence(const Layout& layout, int shift) {
  return (layout.max_length + (int64_t{1} << shift) - 1) >> shift;
}

__device__ inline int64_t first_slot(const Layout& layout, int64_t sequence, int shift) {
  return layout.cu_seqlens ? (layout.cu_seqlens[sequence] >> shift) + sequence
                           : sequence * tiles_per_sequence(layout, shift);
}

// Layout's begin() and length() in one branch: apart, they make the kernels' code longer.
__device__ inline Tile sequence_of(const Layout& layout, int64_t s) {
  if (layout.cu_seqlens) {
    const int64_t begin = layout.cu_seqlens[s], length = layout.cu_seqlens[s + 1] - begin;
    return {s, begin, 0, length, length};
  }
  return {s, s * layout.max_length, 0, layout.lengths ? layout.lengths[s] : layout.max_length, layout.max_length};
}

__device__ inline Tile find_tile(const Layout& layout, int64_t slot, int shift) {
  int64_t s;
  if (layout.cu_seqlens) {
    int64_t low = 0, high = layout.sequences;  // the last sequence whose first slot is not above
    while (high - low > 1) {
      const int64_t middle = (low + high) >> 1;
      if (first_slot(layout, middle, shift) <= slot) low = middle; else high = middle;
    }
    s = low;
  } else {
    s = static_cast<uint32_t>(slot) / static_cast<uint32_t>(tiles_per_sequence(layout, shift));
  }
  Tile tile = sequence_of(layout, s);
  tile.start = (slot - first_slot(layout, s, shift)) << shift;
  return tile;
}

}  // namespace lyra::cuda
