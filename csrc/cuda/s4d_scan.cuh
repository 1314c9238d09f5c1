// What the scan's forward and backward share.
//
// A sequence is cut into segments. Three launches: what each segment alone would leave in the state; one step per
// segment that turns this into the state that enters it; the outputs, from that state. A sequence of a single segment
// needs the last only. A block has one segment of a group of channels. It brings the segment to shared memory, turned
// so that a channel's tokens are neighbours, and every direction and every mode works on it there: each activation is
// read and written once. A warp has a channel, its lanes the modes, and passes the tokens 32 at a time; their sums over
// the modes take 31 shuffles.
//
// Rounding a to fp32 would cost as many units in the last place as the recurrence has steps. So every kStep tokens the
// state gets back what that rounding took: (a^8 - rounded(a)^8) times the state before them, from a table.
#pragma once

#include "layout.cuh"
#include "s4d_modes.cuh"
#include "reduce.cuh"
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

// Activations of any storage type. The type is looked up where they are read and not compiled in: the recurrence is the
// same for all, and by far the longest part to compile.
struct Activations {
  const void* data;
  DType dtype;
  bool wide;  // whether 16-byte accesses are aligned
};

// f(null pointer to the storage type)
template <class R, class F>
__device__ inline void with_storage(DType dtype, F&& f) {
  if constexpr (sizeof(R) == 8)
    f(static_cast<double*>(nullptr));
  else if (dtype == DType::f32)
    f(static_cast<float*>(nullptr));
  else if (dtype == DType::f16)
    f(static_cast<__half*>(nullptr));
  else
    f(static_cast<__nv_bfloat16*>(nullptr));
}

// f(null pointer to the storage type, elements of one access as a constant)
template <class R, class F>
__device__ inline void with_access(const Activations& x, F&& f) {
  with_storage<R>(x.dtype, [&](auto* p) {
    if (x.wide)
      f(p, std::integral_constant<int, kVector<Pointee<decltype(p)>>>());
    else
      f(p, std::integral_constant<int, 1>());
  });
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

// What a lane keeps of its mode.
template <class R>
struct Mode {
  Complex<R> a{0, 0}, lost{0, 0}, c{0, 0};
};

// The part that both directions have, of mode n of the channel whose modes start at `pair`.
template <class R>
__device__ inline Mode<R> load_mode(const Complex<R>* a, const Correction* lost, int64_t pair, int n, int modes) {
  Mode<R> m;
  if (n < modes) {
    m.a = load_complex<R>(a + pair + n);
    m.lost = unpack_correction<R>(lost[pair + n]);
  }
  return m;
}

// kStep tokens from shared memory, in accesses of 16 bytes.
template <class R>
__device__ __forceinline__ void read_step(const R* row, R (&x)[kStep]) {
#pragma unroll
  for (int q = 0; q < kStep; q += kVector<R>) {
    R piece[kVector<R>];
    load<kVector<R>>(row + q, piece);
#pragma unroll
    for (int i = 0; i < kVector<R>; ++i) x[q + i] = piece[i];
  }
}

// The state after the 32 tokens of `row`.
template <class R, bool DOWN>
__device__ __forceinline__ Complex<R> pass_row(const R* row, const Mode<R>& m, Complex<R> s) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    R x[kStep];
    read_step(row + (DOWN ? kSteps - 1 - k : k) * kStep, x);
    const Complex<R> before = s;
#pragma unroll
    for (int j = 0; j < kStep; ++j) s = fma(m.a, s, Complex<R>{x[DOWN ? kStep - 1 - j : j], 0});
    s = fma(m.lost, before, s);
  }
  return s;
}

// The state after the first `tokens` of them.
template <class R>
__device__ inline Complex<R> pass_some(const R* row, const Mode<R>& m, Complex<R> s, int tokens) {
  Complex<R> before = s;
#pragma unroll 1
  for (int t = 0; t < tokens; ++t) {
    s = fma(m.a, s, Complex<R>{row[t], 0});
    if (t % kStep == kStep - 1) before = s = fma(m.lost, before, s);
  }
  return s;
}

// A row's outputs, one for each lane, from the sums over modes of 8 tokens each, which reduce_scatter left in the lanes.
template <class R>
__device__ __forceinline__ R gather_steps(R (&sums)[kSteps]) {
  return reduce_scatter<kStep>(sums, threadIdx.x % kWarp);
}

template <class R, bool DOWN>
__device__ __forceinline__ Complex<R> pass_segment(const Activations& x, const void* tile, R* row, int rows,
                                                   const Mode<R>& m) {
  const int lane = threadIdx.x % kWarp;
  Complex<R> s{0, 0};
#pragma unroll 1
  for (int k = 0; k < rows; ++k) {
    row[lane] = read_tile<R>(x, tile, (DOWN ? rows - 1 - k : k) * kWarp + lane);
    __syncwarp();
    s = pass_row<R, DOWN>(row, m, s);
    __syncwarp();
  }
  return s;
}

// sums (slots, directions, channels, modes): what a segment alone leaves in the state, sum_k a^k x_k with k counted from
// the token passed last. The segment that the state passes last is left out: nobody needs its sum.
// Shared memory: a row of 32 tokens for each warp, the tile.
template <class R>
__global__ void __launch_bounds__(kScanThreads<R>, kScanResident<R> / kScanThreads<R>)
    s4d_scan_segments(Activations x, const Complex<R>* __restrict__ a, const Correction* __restrict__ lost,
                      Complex<R>* __restrict__ sums, Layout layout, ScanShape shape, bool adjoint) {
  DYNAMIC_SHARED(R, memory);
  const ScanBlock b = find_block(layout, shape, blockIdx.x);
  // Upwards: the tokens enter the state in their order.
  const bool wants_up = b.count > 0 && !b.ends_sequence, wants_down = b.count > 0 && b.tile.start > 0;
  const bool first_wanted = adjoint ? wants_down : wants_up;
  const bool second_wanted = shape.directions == 2 && (adjoint ? wants_up : wants_down);
  if (!first_wanted && !second_wanted) return;
  const int rows = (b.count + kWarp - 1) / kWarp, h = threadIdx.x / kWarp;
  R* row = memory + h * kWarp;
  void* tile = memory + shape.group * kWarp;
  load_tile<R>(x, b, shape, rows * kWarp, tile);
  __syncthreads();
  if (h >= b.channels) return;
  const int64_t pair = static_cast<int64_t>(b.first + h) * shape.modes;
  const void* own = static_cast<const char*>(tile) + h * shape.pitch * storage_bytes(x.dtype);
  for (int first = 0; first < shape.modes; first += kWarp) {
    const int n = first + threadIdx.x % kWarp;
    const Mode<R> m = load_mode(a, lost, pair, n, shape.modes);
    for (int direction = 0; direction < shape.directions; ++direction) {
      if (!(direction == 0 ? first_wanted : second_wanted)) continue;
      const Complex<R> s = (direction == 1) == adjoint ? pass_segment<R, false>(x, own, row, rows, m)
                                                       : pass_segment<R, true>(x, own, row, rows, m);
      const int64_t place = (b.slot * shape.directions + direction) * shape.channels * shape.modes + pair + n;
      if (n < shape.modes) store_complex(sums + place, s);
    }
  }
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
  const int64_t size = int64_t{1} << shape.shift, segments = tile.length > 0 ? (tile.length + size - 1) >> shape.shift : 1;
  const Exponent z = exponent_of(p, i / p.modes, i % p.modes);
  const Complex<R> whole = power<R>(z, static_cast<double>(size));
  Complex<R> factor{1, 0}, state{0, 0};
  if (adjoint) factor = direction == 0 ? load_complex<R>(c + i) * load_complex<R>(a + i) : load_complex<R>(c + all + i);
  if (first && direction == 0) {
    state = load_complex<R>(first + sequence * all + i);
    if (adjoint) state.im = -state.im;
  }
  const int64_t slot = first_slot(layout, sequence, shape.shift);
  const auto place = [&](int64_t k) { return states + (slot + (upwards ? k : segments - 1 - k)) * per_sequence + within; };
  constexpr int kAhead = 8;  // loads that are under way at a time: one by one, a long sequence would wait for each
  for (int64_t begin = 0; begin < segments; begin += kAhead) {
    Complex<R> sums[kAhead];
#pragma unroll
    for (int q = 0; q < kAhead; ++q)  // of the last one passed there is no sum, and it is not used
      if (begin + q < segments) sums[q] = load_complex<R>(place(begin + q));
#pragma unroll
    for (int q = 0; q < kAhead; ++q) {
      const int64_t k = begin + q, j = upwards ? k : segments - 1 - k;
      if (k >= segments) break;
      store_complex(place(k), state);
      const int64_t tokens = tile.length - j * size;
      state = fma(tokens < size ? power<R>(z, static_cast<double>(tokens)) : whole, state, factor * sums[q]);
    }
  }
}

template <class R>
__global__ void s4d_scan_copy(const R* __restrict__ from, R* __restrict__ to, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) to[i] = from ? from[i] : R(0);
}

// ---- host --------------------------------------------------------------------------------------------------------

// What a kernel keeps in shared memory for each channel: rows of 32 tokens, tiles in the storage type and in R.
struct ScanMemory {
  int rows, inputs, results;
};

template <class R>
size_t scan_bytes(const ScanShape& s, const ScanMemory& m, DType dtype) {
  return s.group * (m.rows * kWarp * sizeof(R) + s.pitch * (m.inputs * storage_bytes(dtype) + m.results * sizeof(R)));
}

// Groups whose rows fill whole 32-byte sectors. Long segments move fewer states and tables, up to the point where warps
// would be too few: a warp has as many tokens in 16-bit storage, of twice the channels, as two have in fp32. As many
// blocks as registers allow have room on a multiprocessor; fewer, down to one, where that makes do with a single segment,
// which is read once.
template <class R>
ScanShape scan_shape(const S4dScanArgs& args, const ScanMemory& memory, int most_shift) {
  if (args.channels * args.modes * args.directions >= int64_t{1} << 31)
    throw Error("s4d_scan: too many channels times modes");
  ScanShape s;
  s.channels = static_cast<int>(args.channels);
  s.modes = static_cast<int>(args.modes);
  s.directions = static_cast<int>(args.directions);
  s.group = 32 / static_cast<int>(storage_bytes(args.dtype));
  s.groups = (s.channels + s.group - 1) / s.group;
  const size_t resident = kScanResident<R> / kWarp / s.group, limit = shared_limit("s4d_scan");
  const int64_t longest = args.layout.max_length;
  for (s.shift = kMostSegmentShift;; --s.shift) {
    const int64_t size = int64_t{1} << s.shift, chunks = ((longest < size ? longest : size) + kScanChunk - 1) / kScanChunk;
    s.pitch = static_cast<int>(chunks * kScanChunk) + 128 / static_cast<int>(sizeof(R)) / s.group;
    s.segmented = longest > size;
    if (s.shift == kChunkShift) break;
    if (longest <= size / 2 || (s.segmented && s.shift > most_shift)) continue;
    if ((s.segmented ? resident : 1) * scan_bytes<R>(s, memory, args.dtype) <= limit) break;
  }
  return s;
}

template <class R>
int64_t scan_blocks(const S4dScanArgs& args, const ScanShape& s) {
  return args.layout.tiles(int64_t{1} << s.shift) * s.groups;
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
  ScanTables(Pieces& pieces, const S4dScanArgs& args, const ScanShape& shape) {
    const int64_t all = args.channels * args.modes;
    a = pieces.take<Complex<R>>(all);
    lost = pieces.take<Correction>(all);
    c = pieces.take<Complex<R>>(all * args.directions);
    states = pieces.take<Complex<R>>(shape.segmented ? args.layout.tiles(int64_t{1} << shape.shift) * args.directions * all
                                                     : 0);
  }
};

// The activations behind these pointers, which have one storage type and alignment.
template <class... P>
bool wide_accesses(const S4dScanArgs& args, P... pointers) {
  bool wide = false;
  with_storage_type(args.dtype, [&](auto* p) { wide = vectorizable<Pointee<decltype(p)>>(args.channels, pointers...); });
  return wide;
}

template <class R>
void prepare_scan(const S4dScanArgs& args, const ScanShape& shape, const ScanTables<R>& tables, const Activations& x,
                  const void* first, bool adjoint) {
  const int64_t all = args.channels * args.modes;
  launch("s4d_scan_tables", s4d_scan_tables<R>, (all + 127) / 128, 128, 0, args.stream, scan_parameters<R>(args),
         args.channels, shape.directions, tables.a, tables.lost, tables.c);
  if (!shape.segmented) return;
  launch("s4d_scan_segments", s4d_scan_segments<R>, scan_blocks<R>(args, shape), shape.group * kWarp,
         scan_bytes<R>(shape, {1, 1, 0}, args.dtype), args.stream, x, tables.a, tables.lost, tables.states, args.layout,
         shape, adjoint);
  launch("s4d_scan_connect", s4d_scan_connect<R>, (args.layout.sequences * all * shape.directions + 127) / 128, 128, 0,
         args.stream, scan_parameters<R>(args), tables.a, tables.c, static_cast<const Complex<R>*>(first),
         tables.states, args.layout, shape, adjoint);
}

}  // namespace lyra::cuda
