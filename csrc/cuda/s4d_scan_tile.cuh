// The part of the scan's work that a block has, and its tokens in shared memory.
#pragma once

#include "activations.cuh"
#include "layout.cuh"
#include "s4d_scan.h"

namespace lyra::cuda {

constexpr int kChunkShift = 6;  // of the tokens between two checkpoints
constexpr int kStep = 8;        // tokens between two corrections of the state
constexpr int kSteps = kWarp / kStep;
constexpr int kMostSegmentShift = 10;
static_assert(1 << kChunkShift == kScanChunk);

// Threads of the largest block, and of all blocks that a multiprocessor has at a time; more would need fewer registers,
// and spill.
template <class R>
constexpr int kScanThreads = sizeof(R) == 8 ? 128 : 512;
template <class R>
constexpr int kScanResident = sizeof(R) == 8 ? 256 : 512;

struct ScanShape {
  int channels, modes, directions;
  int group, groups;  // channels of a block, a warp for each; and how many groups they make
  int shift;          // a segment has 1 << shift tokens
  int pitch;          // from a channel to the next in shared memory: such that a warp's accesses meet each bank once
  bool segmented;     // whether a sequence may have more than one segment
};

// The block's part of the work, found from its number: slot * groups + group.
struct ScanBlock {
  Tile tile;
  int64_t slot, chunk_slot;  // of the segment, and of its first chunk
  int first, channels;       // of the block
  int rows, count;           // of the segment; and those that are real
  bool ends_sequence;        // holds the last token, or there is none
};

__device__ inline ScanBlock find_block(const Layout& layout, const ScanShape& shape, unsigned number) {
  ScanBlock b;
  const int64_t size = int64_t{1} << shape.shift;
  b.slot = number / shape.groups;
  b.tile = find_tile(layout, b.slot, shape.shift);
  b.chunk_slot = first_slot(layout, b.tile.sequence, kChunkShift) + (b.tile.start >> kChunkShift);
  b.first = number % shape.groups * shape.group;
  b.channels = min(shape.group, shape.channels - b.first);
  b.rows = static_cast<int>(max(int64_t{0}, min(size, b.tile.rows - b.tile.start)));
  b.count = static_cast<int>(max(int64_t{0}, min(size, b.tile.length - b.tile.start)));
  b.ends_sequence = b.tile.start + size >= b.tile.length && (b.tile.start == 0 || b.count > 0);
  return b;
}

// The block's segment to shared memory, tile[channel][token] in the storage type, with zeros up to `tokens`.
template <class R>
__device__ inline void load_tile(const Activations& x, const ScanBlock& b, const ScanShape& shape, int tokens, void* tile) {
  with_access<R>(x, [&](auto* type, auto width) {
    constexpr int N = decltype(width)::value;
    using T = Pointee<decltype(type)>;
    const T* data = static_cast<const T*>(x.data) + (b.tile.row + b.tile.start) * shape.channels + b.first;
    const int packs = b.channels / N;
    for (int i = threadIdx.x; i < tokens * packs; i += blockDim.x) {
      const int t = i / packs, c = i % packs * N;
      T value[N];
      if (t < b.count)
        copy<N>(data + static_cast<int64_t>(t) * shape.channels + c, value);
      else
        memset(value, 0, sizeof value);
#pragma unroll
      for (int k = 0; k < N; ++k) static_cast<T*>(tile)[(c + k) * shape.pitch + t] = value[k];
    }
  });
}

// An element of such a tile.
template <class R>
__device__ inline R read_tile(const Activations& x, const void* tile, int i) {
  R value = 0;
  with_storage<R>(x.dtype, [&](auto* type) { value = widen(static_cast<const Pointee<decltype(type)>*>(tile)[i]); });
  return value;
}

// Results tile[channel][token] to the block's rows of x; zeros in the padding.
template <class R>
__device__ inline void store_tile(const Activations& x, const ScanBlock& b, const ScanShape& shape, const R* tile) {
  with_access<R>(x, [&](auto* type, auto width) {
    constexpr int N = decltype(width)::value;
    using T = Pointee<decltype(type)>;
    T* data = static_cast<T*>(const_cast<void*>(x.data)) + (b.tile.row + b.tile.start) * shape.channels + b.first;
    const int packs = b.channels / N;
    for (int i = threadIdx.x; i < b.rows * packs; i += blockDim.x) {
      const int t = i / packs, c = i % packs * N;
      R value[N] = {};
      if (t < b.count)
#pragma unroll
        for (int k = 0; k < N; ++k) value[k] = tile[(c + k) * shape.pitch + t];
      store<N>(data + static_cast<int64_t>(t) * shape.channels + c, value);
    }
  });
}

}  // namespace lyra::cuda
