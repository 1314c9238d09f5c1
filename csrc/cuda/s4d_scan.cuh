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

#include "reduce.cuh"
#include "s4d_modes.cuh"
#include "s4d_scan_tile.cuh"

namespace lyra::cuda {

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

}  // namespace lyra::cuda
