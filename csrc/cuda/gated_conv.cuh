// The tile of tokens that a block of the gated convolution works on, shared by forward and backward.
//
// A block holds `tokens` tokens of one sequence and `halo` more on each side that they reach. Staged, the rows lie in
// shared memory, read from global memory once; rows too wide for that are read where they lie.
#pragma once

#include "gated_conv.h"
#include "layout.cuh"
#include "reduce.cuh"

namespace lyra::cuda {

constexpr int kGatedThreads = 256;
constexpr int kGatedBlocks = 2;  // on a multiprocessor: more would need fewer registers, and spill

struct GatedShape {
  int channels;      // E
  double mean;       // 1 / 2E
  int width, left;   // out_t sees x_{t - left} .. x_{t - left + width - 1}
  int before, after; // rows of the tile in front of and behind its tokens
  int shift, tokens; // tokens = 1 << shift
  int lanes;         // that serve one row
  bool staged;
  __device__ int rows() const { return before + tokens + after; }
};

// Where the parts of the tile lie in dynamic shared memory: per row 1 / rms, then `parts` arrays of rows x E elements, then
// what the kernel adds. All sizes in bytes, multiples of 16.
inline size_t round_up(size_t bytes) { return (bytes + 15) / 16 * 16; }
template <class T>
size_t staged_bytes(const GatedShape& s, int parts, int64_t extra) {
  const size_t rows = s.before + s.tokens + s.after;
  return round_up(rows * sizeof(Compute<T>)) + (s.staged ? round_up(rows * parts * s.channels * sizeof(T)) : 0) +
         round_up(extra * sizeof(Compute<T>));
}

// As many tokens as fit, more where a small halo is worth asking for more than the usual shared memory.
template <class T>
GatedShape choose_shape(const GatedConvArgs& args, int parts, bool backward, int64_t extra, int elements) {
  GatedShape s;
  // So that every index into the parameters and the tile fits 32 bits.
  if (args.channels * (args.width + 3) >= int64_t{1} << 27)
    throw Error("gated_conv: " + std::to_string(args.channels) + " channels and " + std::to_string(args.width) +
                " taps are too many");
  s.channels = static_cast<int>(args.channels);
  s.mean = 0.5 / static_cast<double>(args.channels);
  s.width = static_cast<int>(args.width);
  s.left = args.causal ? s.width - 1 : (s.width - 1) / 2;
  const int right = s.width - 1 - s.left, reach = s.left > right ? s.left : right;
  s.before = backward ? reach : s.left;
  s.after = backward ? reach : right;
  s.lanes = lanes_per_row(args.channels / elements);
  s.staged = true;
  for (size_t budget : {kSharedBudget, kSharedLimit})
    for (s.shift = 6; s.shift >= (budget == kSharedBudget ? 4 : 2); --s.shift) {
      s.tokens = 1 << s.shift;
      if (staged_bytes<T>(s, parts, extra) <= budget) return s;
    }
  s.staged = false;
  for (s.shift = 6; s.shift > 0; --s.shift) {
    s.tokens = 1 << s.shift;
    if (staged_bytes<T>(s, parts, 0) <= kSharedBudget) break;
  }
  s.tokens = 1 << s.shift;
  return s;
}

// A row of E parameters in shared memory. Lanes that take N neighbouring channels each read them in 16-byte pieces,
// and the pieces of neighbouring lanes are neighbours, so no bank is asked twice.
template <class R, int N>
struct ParameterRow {
  static constexpr int kPiece = N == 1 ? 1 : kVector<R>;
  // The channel at place i of the row.
  __device__ static int channel(int i, int channels) {
    const int part = channels / N * kPiece, q = i / part, within = i % part;
    return within / kPiece * N + q * kPiece + within % kPiece;
  }
  __device__ static void read(const R* row, int c, int channels, R (&out)[N]) {
#pragma unroll
    for (int q = 0; q < N / kPiece; ++q) {
      R piece[kPiece];
      load<kPiece>(row + q * (channels / N * kPiece) + c / N * kPiece, piece);
#pragma unroll
      for (int i = 0; i < kPiece; ++i) out[q * kPiece + i] = piece[i];
    }
  }
};

// `count` rows of E parameters to shared memory, the first `width` of them taps: value(i) is number i of all taps
// (E, width) and then of each row (E) as they lie in global memory, which is read in that order. `raw` has room for as
// many, is used on the way and free afterwards: the place of the activations has.
template <class Row, class R, class F>
__device__ inline void stage_parameters(R* rows, R* raw, int E, int width, int count, F&& value) {
  for (int i = threadIdx.x; i < E * count; i += kGatedThreads) raw[i] = value(i);
  __syncthreads();
  for (int i = threadIdx.x; i < E * count; i += kGatedThreads) {
    const int j = i / E, e = Row::channel(i % E, E);
    rows[i] = raw[j < width ? e * width + j : j * E + e];
  }
  __syncthreads();
}

// Rows of activations: x and v from xv (rows, 2E), and in the backward g from grad (rows, E).
template <class T, int N, bool STAGED>
struct GatedTile {
  using R = Compute<T>;
  GatedShape shape;
  Tile tile;
  const T *xv, *grad;  // in global memory
  R* inverse;          // 1 / rms of each row; 0 outside the sequence, and then nothing is read
  T* staged;           // (parts, rows, E)
  int parts;

  __device__ bool inside(int row) const {
    const int64_t t = tile.start + row - shape.before;
    return t >= 0 && t < tile.length;
  }
  __device__ int64_t global_row(int row) const { return tile.row + tile.start + row - shape.before; }

  // Part 0: x, 1: v, 2: g, of channels c .. c + N - 1; zeros outside the sequence.
  __device__ void read(int row, int part, int c, R (&out)[N]) const {
    if (STAGED) {
      load<N>(staged + (part * shape.rows() + row) * shape.channels + c, out);
    } else if (inside(row)) {
      read_global(row, part, c, out);
    } else {
      for (int i = 0; i < N; ++i) out[i] = 0;
    }
  }
  __device__ void read_global(int row, int part, int c, R (&out)[N]) const {
    const int64_t r = global_row(row);
    const int E = shape.channels;
    load<N>(part == 2 ? grad + r * E + c : xv + r * 2 * E + (part * E + c), out);
  }

  // Loads the tile and finds 1 / rms of its rows. The caller synchronizes after it, and before the next one.
  __device__ void fill(bool norm, R eps) {
    const int lane = threadIdx.x % shape.lanes, group = threadIdx.x / shape.lanes;
    const int groups = kGatedThreads / shape.lanes, rows = shape.rows();
    for (int base = 0; base < rows; base += groups) {  // the same number of turns for all lanes: they shuffle
      const int row = base + group;
      const bool real = row < rows && inside(row);
      R squares = 0;
      if (row < rows)
        for (int part = 0; part < parts; ++part)
          for (int c = lane * N; c < shape.channels; c += shape.lanes * N) {
            R value[N] = {};
            if (real && (STAGED || (norm && part < 2))) read_global(row, part, c, value);
            if (STAGED) store<N>(staged + (part * rows + row) * shape.channels + c, value);
            if (part < 2)
              for (int i = 0; i < N; ++i) squares += value[i] * value[i];
          }
      squares = group_sum(squares, shape.lanes);
      if (row < rows && lane == 0)
        inverse[row] = !real ? R(0) : norm ? rsqrt(squares * R(shape.mean) + eps) : R(1);
    }
  }
};

}  // namespace lyra::cuda
