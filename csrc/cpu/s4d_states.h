// What the scan and its backward share besides arithmetic: states in and out, and both directions of a sequence.
#pragma once

#include "activations.h"
#include "s4d_table_cache.h"
#include "s4d_tile.h"
#include "threads.h"

namespace lyra::cpu::LYRA_ISA {

// A sequence's states (channels, modes, 2) <-> modes pairs of vectors; the sign is that of the imaginary part. These are
// the rows of a transposed tile: re and im of mode after mode.
template <class T>
inline void load_state(const T* p, int64_t modes, const Group<T>& group, T sign, T* state) {
  constexpr int W = kLanes<T>;
  if (!p || modes == 0) return zero(state, modes * kPair<T>);
  load_across(p + group.first * modes * 2, modes * 2, modes * 2, group.lanes, state, W);
  for (int64_t n = 0; n < modes; ++n) store(state + n * kPair<T> + W, load(state + n * kPair<T> + W) * sign);
}
template <class T>
inline void store_state(T* p, int64_t modes, const Group<T>& group, T sign, T* state) {
  constexpr int W = kLanes<T>;
  if (modes == 0) return;
  for (int64_t n = 0; n < modes; ++n) store(state + n * kPair<T> + W, load(state + n * kPair<T> + W) * sign);
  store_across(p + group.first * modes * 2, modes * 2, modes * 2, group.lanes, state, W);
}

// Checkpoint of one slot and direction: (modes, 2, channels), the same for every vector width.
template <class T>
inline T* checkpoint(const S4dScanArgs& a, int64_t slot, int64_t direction, const Group<T>& group) {
  return static_cast<T*>(a.checkpoints) + (slot * a.directions + direction) * a.modes * 2 * a.channels + group.first;
}

// One sequence in the order in which a direction visits it: forward in time, or backward.
struct Walk {
  int64_t first_row, length, first_token, step, first_slot;

  Walk(const S4dScanArgs& a, int64_t sequence, int64_t direction)
      : first_row(a.layout.begin(sequence)),
        length(a.layout.length(sequence)),
        first_token(direction == 0 ? 0 : length - 1),
        step(direction == 0 ? 1 : -1),
        first_slot(a.layout.first_tile(sequence, kScanChunk)) {}
  int64_t chunks() const { return (length + kChunk - 1) / kChunk; }
  int64_t tokens(int64_t chunk) const {
    return length - chunk * kChunk < kChunk ? length - chunk * kChunk : kChunk;
  }
  int64_t token(int64_t chunk) const { return first_token + step * chunk * kChunk; }  // the first that is visited
};

// Rows of a chunk that encode() may touch beyond the real ones are zero.
template <class S>
inline void load_chunk(const Activations<const S>& x, const Walk& walk, int64_t chunk, const Group<Compute<S>>& group,
                       Compute<S>* tile) {
  constexpr int W = kLanes<Compute<S>>;
  const int64_t n = walk.tokens(chunk);
  x.load(walk.first_row, walk.token(chunk), walk.step, n, group, tile);
  zero(tile + n * W, (kChunk - n) * W);
}
// The lines of a chunk, so that they come while another is computed; none where there is no such chunk. Of a band's rows
// most come unasked, and more calls than one cost more than waiting for the others.
template <class E>
inline LinesAhead chunk_lines(const Activations<E>& x, const Walk& walk, int64_t chunk,
                              const Group<Compute<std::remove_const_t<E>>>& group, int64_t calls) {
  if (chunk < 0 || chunk >= walk.chunks()) return LinesAhead();
  return x.lines(walk.first_row, walk.token(chunk), walk.step, walk.tokens(chunk), group,
                 x.channels_first() ? calls : 1);
}

// Where a direction leaves its result, and where the second finds that of the first: the output itself, or for
// 16-bit storage a scratch array of the compute dtype for each slot, so that the sum is rounded once.
template <class S>
class Output {
  using T = Compute<S>;
  static constexpr bool kInPlace = sizeof(S) == sizeof(T);

 public:
  Output(const Activations<S>& out, int64_t directions, const Layout& layout, int64_t slots)
      : out_(out), directions_(directions), longest_(kInPlace || directions == 1 ? 0 : longest_sequence(layout)),
        scratch_(slots * longest_ * kLanes<T>), before_(kInPlace && directions > 1 ? kChunk * kLanes<T> : 0) {}

  void write(const Walk& walk, int64_t chunk, int64_t direction, const Group<T>& group, int64_t slot, T* tile) {
    const int64_t n = walk.tokens(chunk), token = walk.token(chunk);
    const Group<T> all(0, kLanes<T>);
    if constexpr (kInPlace) {
      if (direction > 0) {
        out_.load(walk.first_row, token, walk.step, n, group, before_);
        add_group<T>(before_, kLanes<T>, n, all, tile);
      }
      out_.store(walk.first_row, token, walk.step, n, group, tile);
    } else {
      const int64_t t = direction == 0 ? chunk * kChunk : walk.length - 1 - chunk * kChunk;
      T* kept = scratch_ + (slot * longest_ + t) * kLanes<T>;
      if (direction > 0) add_group(kept, walk.step * kLanes<T>, n, all, tile);
      if (direction + 1 < directions_)
        store_group(kept, kLanes<T>, n, all, tile);
      else
        out_.store(walk.first_row, token, walk.step, n, group, tile);
    }
  }

  // What write() will touch, to be asked for in so many calls; none where the hardware sees it coming.
  LinesAhead lines(const Walk& walk, int64_t chunk, const Group<T>& group, int64_t calls) const {
    return out_.channels_first() ? chunk_lines(out_, walk, chunk, group, calls) : LinesAhead();
  }

 private:
  Activations<S> out_;
  int64_t directions_, longest_;
  Buffer<T> scratch_, before_;
};

// Neighbouring groups that pass through a sequence together, chunk by chunk: four cache lines of a row are read at a
// time, where one alone would leave memory waiting, and their tables (280 KB with 32 modes) still fit in L2. Fewer
// where that would leave threads without work, and one where no sequence fills a block: then a sequence is less than a
// group's tables are, and these stay in L1 from one sequence to the next. The results do not depend on it.
template <class T>
struct Bands {
  int64_t groups, width, count;

  Bands(int64_t channels, int64_t others, bool blocks, const Threads& threads) : groups(groups_of<T>(channels)) {
    for (width = blocks ? 256 / kVectorBytes : 1; width > 1; width /= 2) {
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
      : groups_(groups_of<T>(a.channels)), size_(table_size<T>(a.modes)) {
    const int64_t count = a.directions * groups_;
    const bool blocks = longest_sequence(a.layout) >= kBlock;
    T* made;
    if (!blocks && TableCache<T>::takes(a, count * size_)) {
      TableCache<T>& cache = TableCache<T>::of_thread();
      data_ = cache.find(a);
      if (data_) return;
      made = cache.make(a, count * size_);
    } else {
      own_.reset(new Buffer<T>(count * size_));
      made = *own_;
    }
    data_ = made;
    for_ranges<Denormals::flush>(threads, count, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) build_table<T>(a, i / groups_, i % groups_, blocks, made + i * size_);
    });
  }
  const T* of(int64_t direction, int64_t group) const { return data_ + (direction * groups_ + group) * size_; }

 private:
  int64_t groups_, size_;
  std::unique_ptr<Buffer<T>> own_;
  const T* data_;
};

}  // namespace lyra::cpu::LYRA_ISA
