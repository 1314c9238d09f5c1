// The scan's forward; see s4d_scan.h for the formula and s4d_scan.cuh for the way.
#include "s4d_scan_launch.cuh"

namespace lyra::cuda {
namespace {

constexpr ScanMemory kMemory{1, 1, 1};
constexpr int most_shift(DType dtype) { return storage_bytes(dtype) == 2 ? 10 : 9; }

template <class R>
struct ForwardPointers {
  Activations u, y;
  const Correction* lost;
  const Complex<R>*a, *c, *states, *initial;  // states: null where each sequence is one segment
  const R* D;
  Complex<R>*final, *checkpoints;
};

// The outputs of the 32 tokens of `row`, one for each lane, and the state after them. DOWN: the direction that passes
// them in reverse and leaves the token itself out.
template <class R, bool DOWN>
__device__ __forceinline__ R scan_row(const R* row, const Mode<R>& m, Complex<R>& s) {
  R sums[kSteps];
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    const int step = DOWN ? kSteps - 1 - k : k;
    R x[kStep], part[kStep];
    read_step(row + step * kStep, x);
    const Complex<R> before = s;
#pragma unroll
    for (int j = 0; j < kStep; ++j) {
      const int t = DOWN ? kStep - 1 - j : j;
      if (DOWN) part[t] = m.c.re * s.re - m.c.im * s.im;
      s = fma(m.a, s, Complex<R>{x[t], 0});
      if (!DOWN) part[t] = m.c.re * s.re - m.c.im * s.im;
    }
    s = fma(m.lost, before, s);
    sums[step] = reduce_scatter(part, threadIdx.x % kWarp);
  }
  return gather_steps(sums);
}

// One direction of one channel of the segment, for 32 modes. `y` gets their share of the outputs: is set by the first
// call, added to by the others.
template <class R, bool DOWN>
__device__ __forceinline__ void scan_channel(const ForwardPointers<R>& p, const ScanBlock& b, const ScanShape& shape,
                                             int h, int first, bool fresh, Mode<R> m, const void* u, R* y,
                                             R* row) {
  const int lane = threadIdx.x % kWarp, n = first + lane;
  const bool active = n < shape.modes;
  const int64_t all = static_cast<int64_t>(shape.channels) * shape.modes;
  const int64_t pair = static_cast<int64_t>(b.first + h) * shape.modes + n, place = (DOWN ? all : 0) + pair;
  Complex<R> s{0, 0};
  if (active) {
    m.c = load_complex<R>(p.c + place);
    if (p.states)
      s = load_complex<R>(p.states + b.slot * all * shape.directions + place);
    else if (p.initial)
      s = load_complex<R>(p.initial + b.tile.sequence * all + pair);
  }
  const R skip = p.D && !DOWN && first == 0 ? p.D[b.first + h] : R(0);
  const bool wants_final = !DOWN && p.final && b.ends_sequence && active;
  const int rows = (b.count + kWarp - 1) / kWarp;
  Complex<R> last = s;
#pragma unroll 1
  for (int k = 0; k < rows; ++k) {
    const int i = DOWN ? rows - 1 - k : k, t = i * kWarp + lane;
    constexpr int kRows = kScanChunk / kWarp;  // of a chunk
    if (p.checkpoints && active && (k == 0 || i % kRows == (DOWN ? kRows - 1 : 0)))
      store_complex(p.checkpoints + (b.chunk_slot + i / kRows) * all * shape.directions + place, s);
    const R x = read_tile<R>(p.u, u, t);
    row[lane] = x;
    __syncwarp();
    if (wants_final && k == rows - 1) last = pass_some(row, m, s, b.count - i * kWarp);
    R out = scan_row<R, DOWN>(row, m, s) + skip * x;
    __syncwarp();
    if (!fresh) out += y[t];
    y[t] = out;
  }
  if (wants_final) store_complex(p.final + b.tile.sequence * all + pair, last);
}

// Shared memory: a row of 32 tokens for each warp, the results, the tokens.
template <class R>
__global__ void __launch_bounds__(kScanThreads<R>, kScanResident<R> / kScanThreads<R>)
    s4d_scan_outputs(ForwardPointers<R> p, Layout layout, ScanShape shape) {
  DYNAMIC_SHARED(R, memory);
  const ScanBlock b = find_block(layout, shape, blockIdx.x);
  R *row = memory + threadIdx.x / kWarp * kWarp, *results = memory + shape.group * kWarp;
  void* tile = results + shape.group * shape.pitch;
  load_tile<R>(p.u, b, shape, (b.count + kWarp - 1) / kWarp * kWarp, tile);
  __syncthreads();
  const int h = threadIdx.x / kWarp;
  if (h < b.channels) {
    const void* u = static_cast<const char*>(tile) + h * shape.pitch * storage_bytes(p.u.dtype);
    R* y = results + h * shape.pitch;
    int first = 0;
    do {  // also for no modes at all, where y is D u
      const int64_t pair = static_cast<int64_t>(b.first + h) * shape.modes;
      const Mode<R> m = load_mode(p.a, p.lost, pair, first + threadIdx.x % kWarp, shape.modes);
      if (shape.directions == 2) scan_channel<R, true>(p, b, shape, h, first, first == 0, m, u, y, row);
      scan_channel<R, false>(p, b, shape, h, first, first == 0 && shape.directions == 1, m, u, y, row);
      first += kWarp;
    } while (first < shape.modes);
  }
  __syncthreads();
  store_tile(p.y, b, shape, results);
}

template <class R>
void run(const S4dScanArgs& args) {
  const ScanShape shape = scan_shape<R>(args, kMemory, most_shift(args.dtype));
  const bool wide = wide_accesses(args, args.u, args.y);
  const Activations u{args.u, args.dtype, wide}, y{args.y, args.dtype, wide};
  Pieces pieces(args.workspace);
  const ScanTables<R> tables(pieces, args, shape);
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
                             static_cast<Complex<R>*>(args.checkpoints)};
  const int64_t blocks = scan_blocks<R>(args, shape);
  launch("s4d_scan_outputs", s4d_scan_outputs<R>, blocks, shape.group * kWarp,
         scan_bytes<R>(shape, kMemory, args.dtype), args.stream, p, args.layout, shape);
  if (args.final_state && blocks == 0) {
    const int64_t n = args.layout.sequences * args.channels * args.modes * 2;
    launch("s4d_scan_copy", s4d_scan_copy<R>, (n + 127) / 128, 128, 0, args.stream,
           static_cast<const R*>(args.initial_state), static_cast<R*>(args.final_state), n);
  }
}

template <class R>
size_t workspace(const S4dScanArgs& args) {
  Pieces pieces(nullptr);
  ScanTables<R>(pieces, args, scan_shape<R>(args, kMemory, most_shift(args.dtype)));
  return pieces.used();
}

}  // namespace

size_t s4d_scan_workspace(const S4dScanArgs& args) {
  return with_compute_type(args.dtype, [&](auto* p) { return workspace<Pointee<decltype(p)>>(args); });
}

void s4d_scan(const S4dScanArgs& args) {
  if (args.channels == 0) return;
  with_compute_type(args.dtype, [&](auto* p) { run<Pointee<decltype(p)>>(args); });
}

}  // namespace lyra::cuda
