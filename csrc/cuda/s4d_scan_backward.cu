// The scan's backward; see s4d_scan.h for the formula and s4d_scan.cuh for the way.
//
// Let s be the state before a token and s' = a s + u the one after it, in the order in which the direction passes the
// tokens, and G the gradient of s', as it comes back from the later ones (complex D with dL = Re(D ds)).
//   direction 0, y = Re c s':  G += c g;  du = Re G;  dc += g s';  da += G s;  then G = a G
//   direction 1, y = Re c s:              du = Re G;  dc += g s;   da += G s;  then G = a G + c g
// The states are made again from the checkpoints, kStep tokens at a time: those of a half chunk would not fit registers.
#include "s4d_gradients.cuh"
#include "s4d_scan.cuh"

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
  Complex<R>* scratch;
};

// What a block keeps for each mode of its channels: the tables, the gradient G, and the sums of dc and da.
template <class R>
struct Held {
  const Complex<R>* a;
  const Correction* lost;
  const Complex<R>* c;
  Complex<R>*G, *dc, *da;
};

template <class R>
struct Sums {
  Complex<R> G, dc, da;
};

// The highest token of step k of a half: whether it is real tells whether they all are.
template <bool DOWN>
__device__ constexpr int last_of_step(int k) {
  return DOWN ? kWarp - 1 - k * kStep : k * kStep + kStep - 1;
}

// 32 tokens back, entered by state s; leaves Re G of each token in part.
template <class R, bool DOWN>
__device__ __forceinline__ void half_back(const R* tokens, const R* grads, int real, Complex<R> A,
                                          Complex<R> correction, Complex<R> C, Complex<R> s, Sums<R>& sums, R (&part)[kWarp]) {
  constexpr int kSteps = kWarp / kStep;
  Complex<R> entering[kSteps];
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    entering[k] = s;
#pragma unroll
    for (int j = 0; j < kStep; ++j) {
      const int t = DOWN ? kWarp - 1 - (k * kStep + j) : k * kStep + j;
      if (k + 1 < kSteps && t < real) s = fma(A, s, Complex<R>{tokens[t], 0});
    }
    if (last_of_step<DOWN>(k) < real) s = fma(correction, entering[k], s);
  }
#pragma unroll
  for (int k = kSteps - 1; k >= 0; --k) {
    Complex<R> states[kStep + 1];
    states[0] = entering[k];
#pragma unroll
    for (int j = 0; j < kStep; ++j) {
      const int t = DOWN ? kWarp - 1 - (k * kStep + j) : k * kStep + j;
      states[j + 1] = t < real ? fma(A, states[j], Complex<R>{tokens[t], 0}) : states[j];
    }
    const Complex<R> before = sums.G;
#pragma unroll
    for (int j = kStep - 1; j >= 0; --j) {
      const int t = DOWN ? kWarp - 1 - (k * kStep + j) : k * kStep + j;
      part[t] = 0;
      if (t >= real) continue;
      const R g = grads[t];
      if (!DOWN) sums.G = sums.G + g * C;
      part[t] = sums.G.re;
      sums.dc = sums.dc + g * states[DOWN ? j : j + 1];
      sums.da = fma(sums.G, states[j], sums.da);
      sums.G = DOWN ? fma(A, sums.G, g * C) : A * sums.G;
    }
    if (last_of_step<DOWN>(k) < real) sums.G = fma(correction, before, sums.G);
  }
}

// One channel's chunk. `grads` gets du; returns this lane's share of sum g u.
template <class R, bool DOWN>
__device__ __forceinline__ R chunk_back(const R* tokens, R* grads, int count, int modes, R skip, const Held<R>& held,
                                        const Complex<R>* checkpoint) {
  const int lane = threadIdx.x % kWarp;
  R out[2] = {0, 0};
  for (int first = 0; first < modes; first += kWarp) {
    const int n = first + lane;
    Complex<R> A{0, 0}, correction{0, 0}, C{0, 0}, s{0, 0};
    Sums<R> sums{{0, 0}, {0, 0}, {0, 0}};
    if (n < modes) {
      A = held.a[n];
      correction = unpack_correction<R>(held.lost[n]);
      C = held.c[n];
      s = checkpoint[n];
      sums = {held.G[n], held.dc[n], held.da[n]};
    }
    Complex<R> middle = s;  // the state that enters the half passed last
    const int early = (DOWN ? 1 : 0) * kWarp, real = count - early;
    for (int k = 0; k < kWarp / kStep; ++k) {
      const Complex<R> before = middle;
      for (int j = 0; j < kStep; ++j) {
        const int t = DOWN ? kWarp - 1 - (k * kStep + j) : k * kStep + j;
        if (t < real) middle = fma(A, middle, Complex<R>{tokens[early + t], 0});
      }
      if (last_of_step<DOWN>(k) < real) middle = fma(correction, before, middle);
    }
#pragma unroll 1
    for (int k = 1; k >= 0; --k) {
      const int half = DOWN ? 1 - k : k;
      R part[kWarp];
      half_back<R, DOWN>(tokens + half * kWarp, grads + half * kWarp, count - half * kWarp, A, correction, C, k ? middle : s,
                         sums, part);
      const R sum = reduce_scatter(part, lane);
      out[0] += half == 0 ? sum : R(0);
      out[1] += half == 1 ? sum : R(0);
    }
    if (n < modes) {
      held.G[n] = sums.G;
      held.dc[n] = sums.dc;
      held.da[n] = sums.da;
    }
  }
  __syncwarp();
  R product = 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int t = half * kWarp + lane;
    const R g = grads[t];
    if (!DOWN) product += g * tokens[t];
    grads[t] = t < count ? out[half] + skip * g : R(0);
  }
  return product;
}

template <class R, bool DOWN>
__device__ void segment_back(const BackwardPointers<R>& p, const ScanBlock& b, const ScanShape& shape,
                             const Held<R>& held, R* tokens, R* grads, R* dD) {
  const int modes = shape.modes;
  const int64_t all = static_cast<int64_t>(shape.channels) * modes, own = static_cast<int64_t>(b.first) * modes;
  const int64_t direction = DOWN ? all : 0, all_directions = all * shape.directions;
  for_own_modes(b, modes, [&](int h, int n) {
    const int i = h * modes + n;
    Complex<R> G{0, 0};
    if (p.gradients) {
      G = p.gradients[b.slot * all_directions + direction + own + i];
    } else if (p.final_gradient) {
      G = p.final_gradient[b.tile.sequence * all + own + i];
      G.im = -G.im;
    }
    held.G[i] = G;
    held.dc[i] = held.da[i] = {0, 0};
  });
  for (int k = 0; k < b.chunks; ++k) {
    const int chunk = DOWN ? k : b.chunks - 1 - k, count = b.count(chunk);
    __syncthreads();
    load_chunk<R>(p.u, b, shape, chunk, count, tokens);
    load_chunk<R>(p.grad, b, shape, chunk, count, grads);
    __syncthreads();
    if (count > 0)
      for (int h = threadIdx.x / kWarp; h < b.channels; h += kScanWarps) {
        const int i = h * modes;
        const R product = chunk_back<R, DOWN>(
            tokens + h * shape.pitch, grads + h * shape.pitch, count, modes, p.D && !DOWN ? p.D[b.first + h] : R(0),
            {held.a + i, held.lost + i, held.c + i, held.G + i, held.dc + i, held.da + i},
            p.checkpoints + (b.chunk_slot + chunk) * all_directions + direction + own + i);
        if (!DOWN && p.partial_D) {
          const R sum = group_sum(product, kWarp);
          if (threadIdx.x % kWarp == 0) dD[h] += sum;
        }
      }
    __syncthreads();
    store_chunk<R>(p.du, b, shape, chunk, !DOWN && shape.directions == 2, grads);
  }
  for_own_modes(b, modes, [&](int h, int n) {
    const int i = h * modes + n;
    const Complex<R> dc = held.dc[i], dz = held.da[i] * held.a[i];
    R values[4] = {dc.re, dc.im, dz.re, dz.im};
    R* target = p.partial + (b.slot * all_directions + direction + own + i) * 4;
#pragma unroll
    for (int q = 0; q < 4; q += kVector<R>) {
      R piece[kVector<R>];
#pragma unroll
      for (int j = 0; j < kVector<R>; ++j) piece[j] = values[q + j];
      store<kVector<R>>(target + q, piece);
    }
    if (!DOWN && p.dinitial && b.tile.start == 0)
      p.dinitial[b.tile.sequence * all + own + i] = {held.G[i].re, -held.G[i].im};
  });
}

// Shared memory: two tiles and dD, and when staged, for the block's channels: a, its correction, c, G, dc, da.
template <class R>
__global__ void __launch_bounds__(kScanThreads, kScanBlocks<R>)
    s4d_scan_gradients(BackwardPointers<R> p, Layout layout, ScanShape shape) {
  DYNAMIC_SHARED(Complex<R>, memory);
  const ScanBlock b = find_block(layout, shape, blockIdx.x);
  const int pairs = shape.group * shape.modes;
  const int64_t all = static_cast<int64_t>(shape.channels) * shape.modes, own = static_cast<int64_t>(b.first) * shape.modes;
  Complex<R>* scratch = shape.staged ? memory + 3 * pairs : p.scratch + static_cast<int64_t>(blockIdx.x) * 3 * pairs;
  R* tokens = reinterpret_cast<R*>(shape.staged ? memory + 6 * pairs : memory);
  R *grads = tokens + shape.group * shape.pitch, *dD = grads + shape.group * shape.pitch;
  Held<R> held{p.a + own, p.lost + own, nullptr, scratch, scratch + pairs, scratch + 2 * pairs};
  if (shape.staged) {
    for_own_modes(b, shape.modes, [&](int h, int n) {
      memory[h * shape.modes + n] = held.a[h * shape.modes + n];
      reinterpret_cast<Correction*>(memory + pairs)[h * shape.modes + n] = held.lost[h * shape.modes + n];
    });
    held.a = memory;
    held.lost = reinterpret_cast<Correction*>(memory + pairs);
  }
  for (int h = threadIdx.x / kWarp; h < b.channels; h += kScanWarps)
    if (threadIdx.x % kWarp == 0) dD[h] = 0;
  for (int direction = shape.directions - 1; direction >= 0; --direction) {
    held.c = p.c + direction * all + own;
    if (shape.staged) {
      for_own_modes(b, shape.modes, [&](int h, int n) {
        memory[2 * pairs + h * shape.modes + n] = held.c[h * shape.modes + n];
      });
      held.c = memory + 2 * pairs;
    }
    if (direction == 1)
      segment_back<R, true>(p, b, shape, held, tokens, grads, dD);
    else
      segment_back<R, false>(p, b, shape, held, tokens, grads, dD);
  }
  if (p.partial_D)
    for (int h = threadIdx.x / kWarp; h < b.channels; h += kScanWarps)
      if (threadIdx.x % kWarp == 0) p.partial_D[b.slot * shape.channels + b.first + h] = dD[h];
}

constexpr int kTiles = 2, kPerMode = 12;  // reals that shared memory holds for each mode

template <class R>
struct Workspace {
  ScanTables<R> tables;
  R *partial, *partial_D, *sums;
  Complex<R>* scratch;
  Workspace(Pieces& pieces, const S4dScanArgs& args, const ScanShape& shape) : tables(pieces, args) {
    const int64_t slots = args.layout.tiles(kSegment), columns = args.directions * args.channels * args.modes * 4;
    partial = pieces.take<R>(slots * columns);
    partial_D = pieces.take<R>(slots * args.channels);
    sums = pieces.take<R>(columns);
    scratch = shape.staged ? nullptr : pieces.take<Complex<R>>(slots * shape.groups * shape.group * shape.modes * 3);
  }
};

template <class R>
void run(const S4dScanBackwardArgs& args) {
  const S4dScanArgs& f = args.forward;
  const ScanShape shape = scan_shape<R>(f, kTiles, kPerMode);
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
                              args.dD ? w.partial_D : nullptr,
                              w.scratch};
  const int64_t slots = f.layout.tiles(kSegment);
  launch("s4d_scan_gradients", s4d_scan_gradients<R>, slots * shape.groups, kScanThreads,
         shape.group * scan_channel_bytes<R>(f.modes, kTiles, kPerMode, shape.staged), f.stream, p, f.layout, shape);
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
  Workspace<R>(pieces, args, scan_shape<R>(args, kTiles, kPerMode));
  return pieces.used();
}

}  // namespace

size_t s4d_scan_backward_workspace(const S4dScanArgs& args) {
  return args.dtype == DType::f64 ? workspace<double>(args) : workspace<float>(args);
}

void s4d_scan_backward(const S4dScanBackwardArgs& args) {
  if (args.forward.channels == 0) return;
  args.forward.dtype == DType::f64 ? run<double>(args) : run<float>(args);
}

}  // namespace lyra::cuda
