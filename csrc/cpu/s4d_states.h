// What the scan and its backward share besides arithmetic: states in and out, and both directions of a sequence.
#pragma once

#include "rows.h"
#include "s4d_tile.h"
#include "threads.h"

namespace lyra::cpu::LYRA_ISA {

// A sequence's states (channels, modes, 2) <-> modes pairs of vectors; the sign is that of the imaginary part.
template <class T>
inline void load_state(const T* p, int64_t modes, const Group<T>& group, T sign, T* state) {
  zero(state, modes * kPair<T>);
  if (!p) return;
  for (int i = 0; i < group.lanes; ++i)
    for (int64_t n = 0; n < modes; ++n) {
      const T* pair = p + ((group.first + i) * modes + n) * 2;
      state[n * kPair<T> + i] = pair[0];
      state[n * kPair<T> + kLanes<T> + i] = sign * pair[1];
    }
}
template <class T>
inline void store_state(T* p, int64_t modes, const Group<T>& group, T sign, const T* state) {
  for (int i = 0; i < group.lanes; ++i)
    for (int64_t n = 0; n < modes; ++n) {
      T* pair = p + ((group.first + i) * modes + n) * 2;
      pair[0] = state[n * kPair<T> + i];
      pair[1] = sign * state[n * kPair<T> + kLanes<T> + i];
    }
}

// Checkpoint of one slot and direction: (modes, 2, channels), the same for every vector width.
template <class T>
inline T* checkpoint(const S4dScanArgs& a, int64_t slot, int64_t direction, const Group<T>& group) {
  return static_cast<T*>(a.checkpoints) + (slot * a.directions + direction) * a.modes * 2 * a.channels + group.first;
}

// One sequence in the order in which a direction visits it: forward in time, or backward.
struct Walk {
  int64_t first_row, length, row_step, first_slot;

  Walk(const S4dScanArgs& a, int64_t sequence, int64_t direction)
      : first_row(a.layout.begin(sequence)),
        length(a.layout.length(sequence)),
        row_step(direction == 0 ? 1 : -1),
        first_slot(a.layout.first_tile(sequence, kScanChunk)) {
    if (direction == 1) first_row += length - 1;
  }
  int64_t chunks() const { return (length + kChunk - 1) / kChunk; }
  int64_t tokens(int64_t chunk) const {
    return length - chunk * kChunk < kChunk ? length - chunk * kChunk : kChunk;
  }
  int64_t row(int64_t chunk) const { return first_row + row_step * chunk * kChunk; }
};

// Rows of a chunk that encode() may touch beyond the real ones are zero. Asks for the rows of chunk + Ahead (1 or -1),
// which are a stride apart, so that they come while this chunk is computed.
template <class S, int Ahead>
inline void load_chunk(const void* base, int64_t channels, const Walk& walk, int64_t chunk,
                       const Group<Compute<S>>& group, Compute<S>* tile) {
  constexpr int W = kLanes<Compute<S>>;
  const int64_t n = walk.tokens(chunk), stride = walk.row_step * channels;
  const S* first = static_cast<const S*>(base) + group.first;
  load_group(first + walk.row(chunk) * channels, stride, n, group, tile);
  zero(tile + n * W, (kChunk - n) * W);
  const int64_t next = chunk + Ahead;
  if (next < 0 || next >= walk.chunks()) return;
  prefetch_rows(first + walk.row(next) * channels, stride, walk.tokens(next));
}

// Where a direction leaves its result, and where the second finds that of the first: the output itself, or for
// 16-bit storage a scratch array of the compute dtype for each slot, so that the sum is rounded once.
template <class S>
class Output {
  using T = Compute<S>;
  static constexpr bool kInPlace = sizeof(S) == sizeof(T);

 public:
  Output(void* base, int64_t channels, int64_t directions, const Layout& layout, int64_t slots)
      : base_(static_cast<S*>(base)), channels_(channels), directions_(directions),
        longest_(kInPlace || directions == 1 ? 0 : longest_sequence(layout)), scratch_(slots * longest_ * kLanes<T>) {}

  void write(const Walk& walk, int64_t chunk, int64_t direction, const Group<T>& group, int64_t slot, T* tile) {
    const int64_t n = walk.tokens(chunk);
    S* out = base_ + walk.row(chunk) * channels_ + group.first;
    const int64_t stride = walk.row_step * channels_;
    if constexpr (kInPlace) {
      if (direction > 0) add_group(out, stride, n, group, tile);
      store_group(out, stride, n, group, tile);
    } else {
      const Group<T> all(0, kLanes<T>);
      const int64_t t = direction == 0 ? chunk * kChunk : walk.length - 1 - chunk * kChunk;
      T* kept = scratch_ + (slot * longest_ + t) * kLanes<T>;
      if (direction > 0) add_group(kept, walk.row_step * kLanes<T>, n, all, tile);
      if (direction + 1 < directions_)
        store_group(kept, kLanes<T>, n, all, tile);
      else
        store_group(out, stride, n, group, tile);
    }
  }

 private:
  S* base_;
  int64_t channels_, directions_, longest_;
  Buffer<T> scratch_;
};

// Neighbouring groups that pass through a sequence together, chunk by chunk: four cache lines of a row are read at a
// time, where one alone would leave memory waiting, and their tables (280 KB with 32 modes) still fit in L2. Fewer
// where that would leave threads without work. The results do not depend on it.
template <class T>
struct Bands {
  int64_t groups, width, count;

  Bands(int64_t channels, int64_t others, const Threads& threads) : groups(groups_of<T>(channels)) {
    for (width = 256 / kVectorBytes; width > 1; width /= 2) {
      const int64_t items = (groups + width - 1) / width * others;
      if (threads.count <= 1 || items >= 4 * threads.count || (items > 0 && items % threads.count == 0)) break;
    }
    count = (groups + width - 1) / width;
  }
  int64_t begin(int64_t band) const { return band * width; }
  int64_t end(int64_t band) const { return (band + 1) * width < groups ? (band + 1) * width : groups; }
};

// The tables of every (direction, group), in that order.
template <class T>
class Tables {
 public:
  Tables(const S4dScanArgs& a, const Threads& threads)
      : groups_(groups_of<T>(a.channels)), size_(table_size<T>(a.modes)), data_(a.directions * groups_ * size_) {
    const bool blocks = longest_sequence(a.layout) >= kBlock;
    for_ranges<Denormals::flush>(threads, a.directions * groups_, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        build_table<T>(a, i / groups_, i % groups_, blocks, data_ + i * size_);
    });
  }
  const T* of(int64_t direction, int64_t group) const { return data_ + (direction * groups_ + group) * size_; }

 private:
  int64_t groups_, size_;
  Buffer<T> data_;
};

}  // namespace lyra::cpu::LYRA_ISA
