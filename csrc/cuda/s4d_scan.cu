// The scan's forward; see s4d_scan.h for the formula and s4d_scan.cuh for the way.
#include "s4d_scan.cuh"

namespace lyra::cuda {
namespace {

template <class R>
struct ForwardPointers {
  Activations u, y;
  const Correction* lost;
  const Complex<R>*a, *c, *states, *initial;  // states: null where each sequence is one segment
  const R* D;
  Complex<R>*final, *checkpoints, *scratch;
};

// One channel's chunk: 64 tokens in `row`, which get the outputs. DOWN: the direction that leaves the token itself out.
template <class R, bool DOWN>
__device__ __forceinline__ void scan_chunk(R* row, int count, int modes, R skip, const Complex<R>* a,
                                           const Correction* lost, const Complex<R>* c, Complex<R>* carry,
                                           Complex<R>* checkpoint) {
  const int lane = threadIdx.x % kWarp;
  R out[2] = {0, 0};
  for (int first = 0; first < modes; first += kWarp) {
    const int n = first + lane;
    Complex<R> A{0, 0}, correction{0, 0}, C{0, 0}, s{0, 0}, before{0, 0};
    if (n < modes) {
      A = a[n];
      correction = unpack_correction<R>(lost[n]);
      C = c[n];
      s = carry[n];
      if (checkpoint) checkpoint[n] = s;
    }
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int half = DOWN ? 1 - k : k;
      const R* tokens = row + half * kWarp;
      const int real = count - half * kWarp;
      R part[kWarp];
#pragma unroll
      for (int j = 0; j < kWarp; ++j) {
        const int t = DOWN ? kWarp - 1 - j : j;
        if (j % kStep == 0) before = s;
        if (DOWN) part[t] = C.re * s.re - C.im * s.im;
        if (t < real) s = fma(A, s, Complex<R>{tokens[t], 0});
        if (!DOWN) part[t] = C.re * s.re - C.im * s.im;
        if (j % kStep == kStep - 1 && (DOWN ? t + kStep - 1 : t) < real) s = fma(correction, before, s);
      }
      out[half] += reduce_scatter(part, lane);
    }
    if (n < modes) carry[n] = s;
  }
  __syncwarp();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int t = half * kWarp + lane;
    row[t] = t < count ? out[half] + skip * row[t] : R(0);
  }
}

// One direction over the block's segment. `table` holds c of this direction for the block's channels.
template <class R, bool DOWN>
__device__ void scan_segment(const ForwardPointers<R>& p, const ScanBlock& b, const ScanShape& shape,
                             const Complex<R>* a, const Correction* lost,
                             const Complex<R>* c, Complex<R>* carry, R* tile) {
  const int modes = shape.modes;
  const int64_t all = static_cast<int64_t>(shape.channels) * modes, own = static_cast<int64_t>(b.first) * modes;
  const int64_t direction = DOWN ? all : 0, all_directions = all * shape.directions;
  for_own_modes(b, modes, [&](int h, int n) {
    const int i = h * modes + n;
    carry[i] = p.states ? p.states[b.slot * all_directions + direction + own + i]
               : p.initial ? p.initial[b.tile.sequence * all + own + i]
                           : Complex<R>{0, 0};
  });
  for (int k = 0; k < b.chunks; ++k) {
    const int chunk = DOWN ? b.chunks - 1 - k : k, count = b.count(chunk);
    __syncthreads();
    load_chunk<R>(p.u, b, shape, chunk, count, tile);
    __syncthreads();
    if (count > 0)
      for (int h = threadIdx.x / kWarp; h < b.channels; h += kScanWarps) {
        Complex<R>* checkpoint =
            p.checkpoints ? p.checkpoints + (b.chunk_slot + chunk) * all_directions + direction + own + h * modes
                          : nullptr;
        const R skip = p.D && !DOWN ? p.D[b.first + h] : R(0);
        scan_chunk<R, DOWN>(tile + h * shape.pitch, count, modes, skip, a + h * modes, lost + h * modes, c + h * modes,
                            carry + h * modes, checkpoint);
      }
    __syncthreads();
    store_chunk<R>(p.y, b, shape, chunk, !DOWN && shape.directions == 2, tile);
  }
  if (!DOWN && p.final && b.ends_sequence())
    for_own_modes(b, modes, [&](int h, int n) {
      p.final[b.tile.sequence * all + own + h * modes + n] = carry[h * modes + n];
    });
}

// Shared memory: the tile, and when staged, for the block's channels: a, its correction, c, the state.
template <class R>
__global__ void __launch_bounds__(kScanThreads, kScanBlocks<R>)
    s4d_scan_outputs(ForwardPointers<R> p, Layout layout, ScanShape shape) {
  DYNAMIC_SHARED(Complex<R>, memory);
  const ScanBlock b = find_block(layout, shape, blockIdx.x);
  const int held = shape.group * shape.modes;
  const int64_t all = static_cast<int64_t>(shape.channels) * shape.modes, own = static_cast<int64_t>(b.first) * shape.modes;
  R* tile = reinterpret_cast<R*>(shape.staged ? memory + 4 * held : memory);
  auto* staged_lost = reinterpret_cast<Correction*>(memory + held);
  const Complex<R>* a = shape.staged ? memory : p.a + own;
  const Correction* lost = shape.staged ? staged_lost : p.lost + own;
  Complex<R>* carry = shape.staged ? memory + 3 * held : p.scratch + static_cast<int64_t>(blockIdx.x) * held;
  if (shape.staged)
    for_own_modes(b, shape.modes, [&](int h, int n) {
      memory[h * shape.modes + n] = p.a[own + h * shape.modes + n];
      staged_lost[h * shape.modes + n] = p.lost[own + h * shape.modes + n];
    });
  for (int direction = shape.directions - 1; direction >= 0; --direction) {
    const Complex<R>* c = p.c + direction * all + own;
    if (shape.staged) {
      for_own_modes(b, shape.modes, [&](int h, int n) {
        memory[2 * held + h * shape.modes + n] = c[h * shape.modes + n];
      });
      c = memory + 2 * held;
    }
    if (direction == 1)
      scan_segment<R, true>(p, b, shape, a, lost, c, carry, tile);
    else
      scan_segment<R, false>(p, b, shape, a, lost, c, carry, tile);
  }
}

constexpr int kTiles = 1, kPerMode = 8;  // reals that shared memory holds for each mode

template <class R>
Complex<R>* scratch_of(Pieces& pieces, const S4dScanArgs& args, const ScanShape& shape) {
  if (shape.staged) return nullptr;
  return pieces.take<Complex<R>>(args.layout.tiles(kSegment) * shape.groups * shape.group * shape.modes);
}

template <class R>
void run(const S4dScanArgs& args) {
  const ScanShape shape = scan_shape<R>(args, kTiles, kPerMode);
  const bool wide = wide_accesses(args, args.u, args.y);
  const Activations u{args.u, args.dtype, wide}, y{args.y, args.dtype, wide};
  Pieces pieces(args.workspace);
  const ScanTables<R> tables(pieces, args);
  prepare_scan<R>(args, shape, tables, u, args.initial_state, false);
  const ForwardPointers<R> p{u,
                             y,
                             tables.lost,
                             tables.a,
                             tables.c,
                             shape.segmented ? tables.states : nullptr,
                             static_cast<const Complex<R>*>(args.initial_state),
                             static_cast<const R*>(args.D),
                             static_cast<Complex<R>*>(args.final_state),
                             static_cast<Complex<R>*>(args.checkpoints),
                             scratch_of<R>(pieces, args, shape)};
  launch("s4d_scan_outputs", s4d_scan_outputs<R>, args.layout.tiles(kSegment) * shape.groups, kScanThreads,
         shape.group * scan_channel_bytes<R>(args.modes, kTiles, kPerMode, shape.staged), args.stream, p, args.layout,
         shape);
  if (args.final_state && args.layout.tiles(kSegment) == 0) {
    const int64_t n = args.layout.sequences * args.channels * args.modes * 2;
    launch("s4d_scan_copy", s4d_scan_copy<R>, (n + 127) / 128, 128, 0, args.stream,
           static_cast<const R*>(args.initial_state), static_cast<R*>(args.final_state), n);
  }
}

template <class R>
size_t workspace(const S4dScanArgs& args) {
  Pieces pieces(nullptr);
  ScanTables<R>(pieces, args);
  scratch_of<R>(pieces, args, scan_shape<R>(args, kTiles, kPerMode));
  return pieces.used();
}

}  // namespace

size_t s4d_scan_workspace(const S4dScanArgs& args) {
  return args.dtype == DType::f64 ? workspace<double>(args) : workspace<float>(args);
}

void s4d_scan(const S4dScanArgs& args) {
  if (args.channels == 0) return;
  args.dtype == DType::f64 ? run<double>(args) : run<float>(args);
}

}  // namespace lyra::cuda
