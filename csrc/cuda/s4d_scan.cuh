// What the scan's forward and backward share.
//
// A sequence is cut into segments of 512 tokens. Three launches: what each segment alone would leave in the state; one
// step per segment that turns this into the state that enters it; the outputs, from that state. A sequence of a
// single segment needs the last only. A block has one segment of a group of channels and walks through it in chunks
// of 64 tokens; a warp has a channel, its lanes the modes, and the sum over the modes of 32 tokens takes 31 shuffles.
//
// Rounding a to fp32 would cost as many units in the last place as the recurrence has steps. So every kStep tokens the
// state gets back what that rounding took: (a^8 - rounded(a)^8) times the state before them, from a table.
#pragma once

#include "layout.cuh"
#include "s4d_modes.cuh"
#include "reduce.cuh"
#include "s4d_scan.h"

namespace lyra::cuda {

constexpr int kScanThreads = 256;
constexpr int kScanWarps = kScanThreads / kWarp;
constexpr int kChunkShift = 6, kSegmentShift = 9;
constexpr int kChunk = 1 << kChunkShift, kSegment = 1 << kSegmentShift;
constexpr int kStep = 8;         // tokens between two corrections of the state
constexpr int kMostPitch = kChunk + 8;
static_assert(kChunk == kScanChunk);

template <class R>
constexpr int kScanBlocks = sizeof(R) == 8 ? 1 : 2;  // on a multiprocessor: more would need fewer registers, and spill

struct ScanShape {
  int channels, modes, directions;
  int group, groups;  // channels of a block, and how many groups they make
  int pitch;          // of a channel's tokens in shared memory: such that a warp's accesses meet each bank once
  bool staged;        // whether tables and states fit in shared memory; else they are used where they lie
  bool segmented;     // whether a sequence may have more than one segment
};

// The block's part of the work, found from its number: slot * groups + group.
struct ScanBlock {
  Tile tile;
  int64_t slot, chunk_slot;  // of the segment, and of its first chunk
  int first, channels;       // of the block
  int chunks;                // that have rows
  __device__ int count(int chunk) const {  // real tokens of a chunk
    const int64_t left = tile.length - tile.start - chunk * kChunk;
    return left <= 0 ? 0 : left < kChunk ? static_cast<int>(left) : kChunk;
  }
  __device__ bool ends_sequence() const {
    return tile.start + kSegment >= tile.length && (tile.start == 0 || tile.start < tile.length);
  }
};

__device__ inline ScanBlock find_block(const Layout& layout, const ScanShape& shape, unsigned number) {
  ScanBlock b;
  b.slot = number / shape.groups;
  b.tile = find_tile(layout, b.slot, kSegmentShift);
  b.chunk_slot = first_slot(layout, b.tile.sequence, kChunkShift) + (b.tile.start >> kChunkShift);
  b.first = number % shape.groups * shape.group;
  b.channels = min(shape.group, shape.channels - b.first);
  const int64_t left = b.tile.rows - b.tile.start;
  b.chunks = left <= 0 ? 0 : left >= kSegment ? kSegment / kChunk : static_cast<int>((left + kChunk - 1) >> kChunkShift);
  return b;
}

// Activations of any storage type. The type is looked up at each chunk and not compiled in: the recurrence is the same
// for all, and by far the longest part to compile.
struct Activations {
  const void* data;
  DType dtype;
  bool wide;  // whether 16-byte accesses are aligned
};

// f(null pointer to the storage type, elements of one access as a constant)
template <class R, class F>
__device__ inline void with_access(const Activations& x, F&& f) {
  using One = std::integral_constant<int, 1>;
  if constexpr (sizeof(R) == 8) {
    const double* p = nullptr;
    x.wide ? f(p, std::integral_constant<int, kVector<double>>()) : f(p, One());
  } else if (x.dtype == DType::f32) {
    const float* p = nullptr;
    x.wide ? f(p, std::integral_constant<int, kVector<float>>()) : f(p, One());
  } else if (x.dtype == DType::f16) {
    const __half* p = nullptr;
    x.wide ? f(p, std::integral_constant<int, kVector<__half>>()) : f(p, One());
  } else {
    const __nv_bfloat16* p = nullptr;
    x.wide ? f(p, std::integral_constant<int, kVector<__nv_bfloat16>>()) : f(p, One());
  }
}

// A chunk of activations to shared memory, tile[channel][token], zeros from `count` on; and back, as many rows as the
// chunk has.
template <class R>
__device__ inline void load_chunk(const Activations& x, const ScanBlock& b, const ScanShape& shape, int chunk, int count,
                                  R* tile) {
  with_access<R>(x, [&](auto* type, auto width) {
    constexpr int N = decltype(width)::value;
    const auto* data = static_cast<decltype(type)>(x.data);
    const int packs = b.channels / N;
    const int64_t row = b.tile.row + b.tile.start + chunk * kChunk;
    for (int i = threadIdx.x; i < kChunk * packs; i += kScanThreads) {
      const int t = i / packs, c = i % packs * N;
      R value[N] = {};
      if (t < count) load<N>(data + (row + t) * shape.channels + b.first + c, value);
#pragma unroll
      for (int k = 0; k < N; ++k) tile[(c + k) * shape.pitch + t] = value[k];
    }
  });
}

template <class R>
__device__ inline void store_chunk(const Activations& x, const ScanBlock& b, const ScanShape& shape, int chunk, bool add,
                                   const R* tile) {
  with_access<R>(x, [&](auto* type, auto width) {
    constexpr int N = decltype(width)::value;
    using T = std::remove_const_t<Pointee<decltype(type)>>;
    T* data = static_cast<T*>(const_cast<void*>(x.data));
    const int packs = b.channels / N;
    const int64_t start = b.tile.start + chunk * kChunk, left = b.tile.rows - start;
    const int rows = left < kChunk ? static_cast<int>(left) : kChunk;
    for (int i = threadIdx.x; i < rows * packs; i += kScanThreads) {
      const int t = i / packs, c = i % packs * N;
      T* target = data + (b.tile.row + start + t) * shape.channels + b.first + c;
      R value[N];
#pragma unroll
      for (int k = 0; k < N; ++k) value[k] = tile[(c + k) * shape.pitch + t];
      if (add) {  // what this thread stored for the other direction
        R other[N];
        load<N>(target, other);
#pragma unroll
        for (int k = 0; k < N; ++k) value[k] += other[k];
      }
      store<N>(target, value);
    }
  });
}

// f(channel of the block, mode) for the pairs of this thread: a warp has every 8th channel, a lane every 32nd mode.
template <class F>
__device__ inline void for_own_modes(const ScanBlock& b, int modes, F&& f) {
  for (int h = threadIdx.x / kWarp; h < b.channels; h += kScanWarps)
    for (int n = threadIdx.x % kWarp; n < modes; n += kWarp) f(h, n);
}

// A correction as two bfloat16: a small number that needs few digits, and is read as often as a.
using Correction = uint32_t;

__device__ inline Correction pack_correction(Complex<double> z) {
  const __nv_bfloat16 parts[2] = {__float2bfloat16_rn(static_cast<float>(z.re)),
                                  __float2bfloat16_rn(static_cast<float>(z.im))};
  Correction packed;
  memcpy(&packed, parts, sizeof packed);
  return packed;
}
template <class R>
__device__ inline Complex<R> unpack_correction(Correction packed) {
  __nv_bfloat16 parts[2];
  memcpy(parts, &packed, sizeof packed);
  return {static_cast<R>(widen(parts[0])), static_cast<R>(widen(parts[1]))};
}

// Tables of a, of a^8 - rounded(a)^8, (channels, modes) each, and of c (directions, channels, modes).
template <class R>
__global__ void s4d_scan_tables(ModeParameters<R> p, int64_t channels, int directions, Complex<R>* a, Correction* lost,
                                Complex<R>* c) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= channels * p.modes) return;
  const int64_t h = i / p.modes;
  const int n = i % p.modes;
  const Pole q = discretize(p, h, n);
  const Complex<R> stored{static_cast<R>(q.a.re), static_cast<R>(q.a.im)};
  store_complex(a + i, stored);
  static_assert(kStep == 1 << 3);
  Complex<double> exact = q.a, rounded{static_cast<double>(stored.re), static_cast<double>(stored.im)};
  for (int k = 0; k < 3; ++k) {
    exact = exact * exact;
    rounded = rounded * rounded;
  }
  lost[i] = pack_correction(exact - rounded);
  for (int d = 0; d < directions; ++d) {
    const Complex<double> value = 2 * q.dt * (weight_of(p, channels, d, h, n) * q.phi);
    store_complex(c + d * channels * p.modes + i,
                  Complex<R>{static_cast<R>(value.re), static_cast<R>(value.im)});
  }
}

// sums (slots, directions, channels, modes): what a segment alone leaves in the state, sum_k a^k x_k with k counted from
// the token passed last. The segment that the state passes last is left out: nobody needs its sum.
template <class R>
__global__ void __launch_bounds__(kScanThreads, kScanBlocks<R>)
    s4d_scan_segments(Activations x, const Complex<R>* __restrict__ a, const Correction* __restrict__ lost,
                      Complex<R>* __restrict__ sums, Layout layout, ScanShape shape, bool adjoint) {
  DYNAMIC_SHARED(Complex<R>, memory);
  const int direction = blockIdx.x % shape.directions, modes = shape.modes, held = shape.group * modes;
  R* tile = reinterpret_cast<R*>(shape.staged ? memory + 3 * held : memory);
  const ScanBlock b = find_block(layout, shape, blockIdx.x / shape.directions);
  const bool upwards = (direction == 1) == adjoint;  // the order in which the tokens enter the state
  if (b.tile.start >= b.tile.length || (upwards ? b.ends_sequence() : b.tile.start == 0)) return;
  const int64_t base = ((b.slot * shape.directions + direction) * shape.channels + b.first) * modes;
  const Complex<R>* table = a + static_cast<int64_t>(b.first) * modes;
  const Correction* lost_table = lost + static_cast<int64_t>(b.first) * modes;
  auto* staged_lost = reinterpret_cast<Correction*>(memory + 2 * held);
  Complex<R>* state = shape.staged ? memory + held : sums + base;
  for_own_modes(b, modes, [&](int h, int n) {
    const int i = h * modes + n;
    state[i] = {0, 0};
    if (shape.staged) {
      memory[i] = table[i];
      staged_lost[i] = lost_table[i];
    }
  });
  if (shape.staged) {
    table = memory;
    lost_table = staged_lost;
  }
  for (int k = 0; k < b.chunks; ++k) {
    const int chunk = upwards ? k : b.chunks - 1 - k, count = b.count(chunk);
    __syncthreads();
    load_chunk<R>(x, b, shape, chunk, count, tile);
    __syncthreads();
    for_own_modes(b, modes, [&](int h, int n) {
      const Complex<R> factor = table[h * modes + n], correction = unpack_correction<R>(lost_table[h * modes + n]);
      Complex<R> s = state[h * modes + n];
      const R* row = tile + h * shape.pitch;
      for (int first = 0; first < count; first += kStep) {
        const Complex<R> before = s;
        const int tokens = min(kStep, count - first), oldest = upwards ? first : count - 1 - first;
        for (int j = 0; j < tokens; ++j) s = fma(factor, s, Complex<R>{row[upwards ? oldest + j : oldest - j], 0});
        if (tokens == kStep) s = fma(correction, before, s);
      }
      state[h * modes + n] = s;
    });
  }
  if (shape.staged) for_own_modes(b, modes, [&](int h, int n) { sums[base + h * modes + n] = state[h * modes + n]; });
}

// In place: from each segment's sum to the state (or, `adjoint`, its gradient) that enters it.
template <class R>
__global__ void s4d_scan_connect(ModeParameters<R> p, const Complex<R>* __restrict__ a, const Complex<R>* __restrict__ c,
                                 const Complex<R>* __restrict__ first, Complex<R>* __restrict__ states, Layout layout,
                                 ScanShape shape, bool adjoint) {
  const int64_t all = static_cast<int64_t>(shape.channels) * shape.modes;
  const unsigned pairs = static_cast<unsigned>(all), per_sequence = pairs * shape.directions;
  const int64_t number = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (number >= layout.sequences * per_sequence) return;
  const int64_t sequence = static_cast<unsigned>(number) / per_sequence;
  const unsigned within = static_cast<unsigned>(number) % per_sequence;
  const int direction = within / pairs;
  const unsigned i = within % pairs;
  const bool upwards = (direction == 0) != adjoint;
  const Tile tile = sequence_of(layout, sequence);
  const int64_t segments = tile.length > 0 ? (tile.length + kSegment - 1) >> kSegmentShift : 1;
  const Exponent z = exponent_of(p, i / p.modes, i % p.modes);
  const Complex<R> whole = power<R>(z, kSegment);
  Complex<R> factor{1, 0}, state{0, 0};
  if (adjoint) factor = direction == 0 ? load_complex<R>(c + i) * load_complex<R>(a + i) : load_complex<R>(c + all + i);
  if (first && direction == 0) {
    state = load_complex<R>(first + sequence * all + i);
    if (adjoint) state.im = -state.im;
  }
  const int64_t slot = first_slot(layout, sequence, kSegmentShift);
  for (int64_t k = 0; k < segments; ++k) {
    const int64_t j = upwards ? k : segments - 1 - k;
    Complex<R>* place = states + (slot + j) * per_sequence + within;
    const Complex<R> sum = load_complex<R>(place);  // of the last one passed there is none, and it is not used
    store_complex(place, state);
    const int64_t tokens = tile.length - j * kSegment;
    state = fma(tokens < kSegment ? power<R>(z, static_cast<double>(tokens)) : whole, state, factor * sum);
  }
}

template <class R>
__global__ void s4d_scan_copy(const R* __restrict__ from, R* __restrict__ to, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) to[i] = from ? from[i] : R(0);
}

// ---- host --------------------------------------------------------------------------------------------------------

// Bytes of shared memory for each channel of a block: tiles, and what each mode keeps.
template <class R>
size_t scan_channel_bytes(int64_t modes, int tiles, int per_mode, bool staged) {
  return sizeof(R) * (tiles * kMostPitch + 1 + (staged ? modes * per_mode : 0));
}

// A group's rows fill whole 32-byte sectors; smaller groups where there would be too few blocks for a large card.
template <class R>
ScanShape scan_shape(const S4dScanArgs& args, int tiles, int per_mode) {
  const int smallest = args.dtype == DType::f64 ? 4 : args.dtype == DType::f32 ? 8 : 16;
  constexpr int64_t kEnoughBlocks = 264;
  if (args.channels * args.modes * args.directions >= int64_t{1} << 31)
    throw Error("s4d_scan: too many channels times modes");
  ScanShape s;
  s.channels = static_cast<int>(args.channels);
  s.modes = static_cast<int>(args.modes);
  s.directions = static_cast<int>(args.directions);
  s.segmented = args.layout.max_length > kSegment;
  s.group = 32;
  const size_t bytes = scan_channel_bytes<R>(args.modes, tiles, per_mode, true);
  while (s.group > smallest && s.group * bytes > kSharedBudget) s.group /= 2;
  s.staged = s.group * bytes <= kSharedLimit;
  while (s.group > smallest &&
         args.layout.tiles(kSegment) * ((args.channels + s.group - 1) / s.group) < kEnoughBlocks)
    s.group /= 2;
  s.pitch = kChunk + (s.group < kWarp ? kWarp / s.group : 1);
  s.groups = static_cast<int>((args.channels + s.group - 1) / s.group);
  return s;
}

template <class R>
ModeParameters<R> scan_parameters(const S4dScanArgs& args) {
  return {static_cast<int>(args.modes), static_cast<const R*>(args.log_dt), static_cast<const R*>(args.log_A_real),
          static_cast<const R*>(args.A_imag), static_cast<const R*>(args.C)};
}

// Hands out pieces of a workspace, 16-byte aligned; with a null start it only adds up.
class Pieces {
 public:
  explicit Pieces(void* start) : start_(static_cast<char*>(start)) {}
  template <class X>
  X* take(int64_t n) {
    X* p = start_ ? reinterpret_cast<X*>(start_ + used_) : nullptr;
    used_ += (static_cast<size_t>(n) * sizeof(X) + 15) / 16 * 16;
    return p;
  }
  size_t used() const { return used_; }

 private:
  char* start_;
  size_t used_ = 0;
};

template <class R>
struct ScanTables {
  Complex<R>*a, *c, *states;  // states: what enters each segment
  Correction* lost;
  ScanTables(Pieces& pieces, const S4dScanArgs& args) {
    const int64_t all = args.channels * args.modes;
    a = pieces.take<Complex<R>>(all);
    lost = pieces.take<Correction>(all);
    c = pieces.take<Complex<R>>(all * args.directions);
    const bool segmented = args.layout.max_length > kSegment;
    states = pieces.take<Complex<R>>(segmented ? args.layout.tiles(kSegment) * args.directions * all : 0);
  }
};

// The activations behind these pointers, which have one storage type and alignment.
template <class... P>
bool wide_accesses(const S4dScanArgs& args, P... pointers) {
  bool wide = false;
  with_type(args.dtype, [&](auto* p) { wide = vectorizable<Pointee<decltype(p)>>(args.channels, pointers...); });
  return wide;
}

template <class R>
void prepare_scan(const S4dScanArgs& args, const ScanShape& shape, const ScanTables<R>& tables, const Activations& x,
                  const void* first, bool adjoint) {
  const int64_t all = args.channels * args.modes;
  launch("s4d_scan_tables", s4d_scan_tables<R>, (all + 127) / 128, 128, 0, args.stream, scan_parameters<R>(args),
         args.channels, shape.directions, tables.a, tables.lost, tables.c);
  if (!shape.segmented) return;
  launch("s4d_scan_segments", s4d_scan_segments<R>, args.layout.tiles(kSegment) * shape.groups * shape.directions,
         kScanThreads, shape.group * scan_channel_bytes<R>(args.modes, 1, 6, shape.staged), args.stream, x, tables.a,
         tables.lost, tables.states, args.layout, shape, adjoint);
  launch("s4d_scan_connect", s4d_scan_connect<R>, (args.layout.sequences * all * shape.directions + 127) / 128, 128, 0,
         args.stream, scan_parameters<R>(args), tables.a, tables.c, static_cast<const Complex<R>*>(first),
         tables.states, args.layout, shape, adjoint);
}

}  // namespace lyra::cuda
