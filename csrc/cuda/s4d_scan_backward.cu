// The scan's backward; see s4d_scan.h for the formula and s4d_scan.cuh for the way.
//
// Let s be the state before a token and s' = a s + u the one after it, in the order in which the direction passes the
// tokens, and G the gradient of s', as it comes back from the later ones (complex D with dL = Re(D ds)).
//   direction 0, y = Re c s':  G += c g;  du = Re G;  dc += g s';  da += G s;  then G = a G
//   direction 1, y = Re c s:              du = Re G;  dc += g s;   da += G s;  then G = a G + c g
// The states are made again from the checkpoints, kStep tokens at a time: those of a half chunk would not fit registers.
// Going downwards the padding of a segment changes nothing: g and the state are zero there.
#include "s4d_gradients.cuh"
#include "s4d_scan_launch.cuh"

namespace lyra::cuda {
namespace {

template <class R>
struct BackwardPointers {
  Activations grad, u, du;
  const Correction* lost;
  const Complex<R>*a, *c, *gradients, *final_gradient, *checkpoints;  // gradients: of what leaves a segment
  const R* D;
  Complex<R>* dinitial;
  R*partial, *partial_D;  // (slots, directions, channels, modes, 4), (slots, channels)
};

template <class R>
struct Sums {
  Complex<R> G, dc, da;
};

// 32 tokens back, entered by state s; returns the sum of Re G over the modes for this lane's token.
template <class R, bool DOWN>
__device__ __forceinline__ R half_back(const R* tokens, int real, const Mode<R>& m, Complex<R> s,
                                       Sums<R>& sums) {
  const R* grads = tokens + kScanChunk;
  R outputs[kSteps];
  Complex<R> entering[kSteps];
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    entering[k] = s;
    if (k + 1 == kSteps) break;
    R x[kStep];
    read_step(tokens + (DOWN ? kSteps - 1 - k : k) * kStep, x);
#pragma unroll
    for (int j = 0; j < kStep; ++j) s = fma(m.a, s, Complex<R>{x[DOWN ? kStep - 1 - j : j], 0});
    s = fma(m.lost, entering[k], s);
  }
  __syncwarp();  // so that the tokens are read again, and not kept in 24 registers
#pragma unroll
  for (int k = kSteps - 1; k >= 0; --k) {
    const int step = DOWN ? kSteps - 1 - k : k, base = step * kStep;
    R x[kStep], g[kStep], part[kStep];
    read_step(tokens + base, x);
    read_step(grads + base, g);
    Complex<R> states[kStep + 1];
    states[0] = entering[k];
#pragma unroll
    for (int j = 0; j < kStep; ++j) states[j + 1] = fma(m.a, states[j], Complex<R>{x[DOWN ? kStep - 1 - j : j], 0});
    const Complex<R> before = sums.G;
#pragma unroll
    for (int j = kStep - 1; j >= 0; --j) {
      const int t = DOWN ? kStep - 1 - j : j;
      part[t] = 0;
      // Going upwards the gradient of a final state meets the padding first, and must not change there.
      if (!DOWN && base + t >= real) continue;
      if (!DOWN) sums.G = sums.G + g[t] * m.c;
      part[t] = sums.G.re;
      sums.dc = sums.dc + g[t] * states[DOWN ? j : j + 1];
      sums.da = fma(sums.G, states[j], sums.da);
      sums.G = DOWN ? fma(m.a, sums.G, g[t] * m.c) : m.a * sums.G;
    }
    if (DOWN || base + kStep <= real) sums.G = fma(m.lost, before, sums.G);
    outputs[step] = reduce_scatter(part, threadIdx.x % kWarp);
  }
  return gather_steps(outputs);
}

// One direction of one channel of the segment, for 32 modes. `du` gets their share: is set by the first call, added to
// by the others.
template <class R, bool DOWN>
__device__ __forceinline__ void channel_back(const BackwardPointers<R>& p, const ScanBlock& b, const ScanShape& shape, int h,
                                          int first, bool fresh, Mode<R> m, const void* u, const void* grad, R* du,
                                          R* rows) {
  const int lane = threadIdx.x % kWarp, n = first + lane;
  const bool active = n < shape.modes;
  const int64_t all = static_cast<int64_t>(shape.channels) * shape.modes, per_slot = all * shape.directions;
  const int64_t pair = static_cast<int64_t>(b.first + h) * shape.modes + n, place = (DOWN ? all : 0) + pair;
  Sums<R> sums{{0, 0}, {0, 0}, {0, 0}};
  if (active) {
    m.c = load_complex<R>(p.c + place);
    if (p.gradients) {
      sums.G = load_complex<R>(p.gradients + b.slot * per_slot + place);
    } else if (p.final_gradient) {
      sums.G = load_complex<R>(p.final_gradient + b.tile.sequence * all + pair);
      sums.G.im = -sums.G.im;
    }
  }
  const R skip = p.D && !DOWN && first == 0 ? p.D[b.first + h] : R(0);
  const int chunks = (b.count + static_cast<int>(kScanChunk) - 1) >> kChunkShift;
#pragma unroll 1
  for (int k = 0; k < chunks; ++k) {
    const int chunk = DOWN ? k : chunks - 1 - k, start = chunk << kChunkShift;
#pragma unroll
    for (int t = lane; t < kScanChunk; t += kWarp) {
      rows[t] = read_tile<R>(p.u, u, start + t);
      rows[kScanChunk + t] = read_tile<R>(p.grad, grad, start + t);
    }
    __syncwarp();
    Complex<R> s{0, 0};
    if (active) s = load_complex<R>(p.checkpoints + (b.chunk_slot + chunk) * per_slot + place);
    Complex<R> early = s;
    s = pass_row<R, DOWN>(rows + (DOWN ? 1 : 0) * kWarp, m, s);  // enters the half passed last
#pragma unroll 1
    for (int i = 1; i >= 0; --i) {
      const int half = DOWN ? 1 - i : i, t = half * kWarp;
      R out = half_back<R, DOWN>(rows + t, b.count - start - t, m, s, sums);
      out += skip * rows[kScanChunk + t + lane];
      R* target = du + start + t + lane;
      if (!fresh) out += *target;
      *target = out;
      s = early;
    }
    __syncwarp();
  }
  if (active) {
    const Complex<R> dz = sums.da * m.a;
    const R values[4] = {sums.dc.re, sums.dc.im, dz.re, dz.im};
    R* target = p.partial + (b.slot * per_slot + place) * 4;
#pragma unroll
    for (int q = 0; q < 4; q += kVector<R>) {
      R piece[kVector<R>];
#pragma unroll
      for (int j = 0; j < kVector<R>; ++j) piece[j] = values[q + j];
      store<kVector<R>>(target + q, piece);
    }
    if (!DOWN && p.dinitial && b.tile.start == 0)
      store_complex(p.dinitial + b.tile.sequence * all + pair, Complex<R>{sums.G.re, -sums.G.im});
  }
}

// Shared memory: a chunk of tokens and one of gradients for each warp, du, the tokens, their gradients. Where every
// gradient is used once du takes its place.
template <class R>
__global__ void __launch_bounds__(kScanThreads<R>, kScanResident<R> / kScanThreads<R>)
    s4d_scan_gradients(BackwardPointers<R> p, Layout layout, ScanShape shape, bool in_place) {
  DYNAMIC_SHARED(R, memory);
  const ScanBlock b = find_block(layout, shape, blockIdx.x);
  const int h = threadIdx.x / kWarp, padded = (b.count + static_cast<int>(kScanChunk) - 1) >> kChunkShift << kChunkShift;
  const int64_t bytes = shape.pitch * static_cast<int64_t>(storage_bytes(p.u.dtype));
  R* rows = memory + h * 2 * kScanChunk;
  auto* tiles = reinterpret_cast<unsigned char*>(memory + shape.group * 2 * kScanChunk);
  R* results = reinterpret_cast<R*>(tiles);
  unsigned char* grads = in_place ? tiles : tiles + shape.group * shape.pitch * sizeof(R);
  unsigned char* tokens = grads + shape.group * bytes;
  load_tile<R>(p.u, b, shape, padded, tokens);
  load_tile<R>(p.grad, b, shape, padded, grads);
  __syncthreads();
  if (h < b.channels) {
    const unsigned char *u = tokens + h * bytes, *grad = grads + h * bytes;
    if (p.partial_D) {
      R product = 0;
      for (int t = threadIdx.x % kWarp; t < padded; t += kWarp)
        product += read_tile<R>(p.u, u, t) * read_tile<R>(p.grad, grad, t);
      product = group_sum(product, kWarp);
      if (threadIdx.x % kWarp == 0) p.partial_D[b.slot * shape.channels + b.first + h] = product;
    }
    R* du = results + h * shape.pitch;
    int first = 0;
    do {
      const int64_t pair = static_cast<int64_t>(b.first + h) * shape.modes;
      const Mode<R> m = load_mode(p.a, p.lost, pair, first + threadIdx.x % kWarp, shape.modes);
      if (shape.directions == 2) channel_back<R, true>(p, b, shape, h, first, first == 0, m, u, grad, du, rows);
      channel_back<R, false>(p, b, shape, h, first, first == 0 && shape.directions == 1, m, u, grad, du, rows);
      first += kWarp;
    } while (first < shape.modes);
  }
  __syncthreads();
  store_tile(p.du, b, shape, results);
}

bool in_place(const S4dScanArgs& args) {
  return args.directions == 1 && args.modes <= kWarp && storage_bytes(args.dtype) >= 4;
}
ScanMemory memory_of(const S4dScanArgs& args) { return {2 * kScanChunk / kWarp, 2, in_place(args) ? 0 : 1}; }
constexpr int kMostShift = 9;

template <class R>
struct Workspace {
  ScanTables<R> tables;
  R *partial, *partial_D, *sums;
  Workspace(Pieces& pieces, const S4dScanArgs& args, const ScanShape& shape) : tables(pieces, args, shape) {
    const int64_t slots = args.layout.tiles(int64_t{1} << shape.shift);
    const int64_t columns = args.directions * args.channels * args.modes * 4;
    partial = pieces.take<R>(slots * columns);
    partial_D = pieces.take<R>(slots * args.channels);
    sums = pieces.take<R>(columns);
  }
};

template <class R>
void run(const S4dScanBackwardArgs& args) {
  const S4dScanArgs& f = args.forward;
  const ScanShape shape = scan_shape<R>(f, memory_of(f), kMostShift);
  const bool wide = wide_accesses(f, f.u, args.grad_y, args.du);
  const Activations grad{args.grad_y, f.dtype, wide}, u{f.u, f.dtype, wide}, du{args.du, f.dtype, wide};
  Pieces pieces(f.workspace);
  const Workspace<R> w(pieces, f, shape);
  prepare_scan<R>(f, shape, w.tables, grad, args.grad_final_state, true);
  const BackwardPointers<R> p{grad,
                              u,
                              du,
                              w.tables.lost,
                              w.tables.a,
                              w.tables.c,
                              shape.segmented ? w.tables.states : nullptr,
                              static_cast<const Complex<R>*>(args.grad_final_state),
                              static_cast<const Complex<R>*>(f.checkpoints),
                              static_cast<const R*>(f.D),
                              static_cast<Complex<R>*>(args.dinitial_state),
                              w.partial,
                              args.dD ? w.partial_D : nullptr};
  const int64_t slots = f.layout.tiles(int64_t{1} << shape.shift);
  launch("s4d_scan_gradients", s4d_scan_gradients<R>, scan_blocks<R>(f, shape), shape.group * kWarp,
         scan_bytes<R>(shape, memory_of(f), f.dtype), f.stream, p, f.layout, shape, in_place(f));
  sum_columns<R>(w.partial, slots, f.directions * f.channels * f.modes * 4, w.sums, f.stream);
  if (args.dD) sum_columns<R>(w.partial_D, slots, f.channels, static_cast<R*>(args.dD), f.stream);
  apply_chain_rule<R, false>(w.sums, scan_parameters<R>(f), shape.directions, f.channels,
                             {static_cast<R*>(args.dlog_dt), static_cast<R*>(args.dlog_A_real),
                              static_cast<R*>(args.dA_imag), static_cast<R*>(args.dC)},
                             f.stream);
  if (args.dinitial_state && slots == 0) {
    const int64_t n = f.layout.sequences * f.channels * f.modes * 2;
    launch("s4d_scan_copy", s4d_scan_copy<R>, (n + 127) / 128, 128, 0, f.stream,
           static_cast<const R*>(args.grad_final_state), static_cast<R*>(args.dinitial_state), n);
  }
}

template <class R>
size_t workspace(const S4dScanArgs& args) {
  Pieces pieces(nullptr);
  Workspace<R>(pieces, args, scan_shape<R>(args, memory_of(args), kMostShift));
  return pieces.used();
}

}  // namespace

size_t s4d_scan_backward_workspace(const S4dScanArgs& args) {
  return with_compute_type(args.dtype, [&](auto* p) { return workspace<Pointee<decltype(p)>>(args); });
}

void s4d_scan_backward(const S4dScanBackwardArgs& args) {
  if (args.forward.channels == 0) return;
  with_compute_type(args.forward.dtype, [&](auto* p) { run<Pointee<decltype(p)>>(args); });
}

}  // namespace lyra::cuda
