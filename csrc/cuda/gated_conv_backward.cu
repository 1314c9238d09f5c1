// Backward of the gated convolution.
//
// With r_t = 1 / rms of row t, w the taps, m and n the norm's weights of x and v (ones without a norm):
//   c_t  = b + sum_j w_j m r_s x_s, s = t + j - left      the convolution, recomputed
//   f_t  = n g_t r_t v_t                                   its gradient
//   qx_t = m sum_j w_j f_{t + left - j},  qv_t = n g_t c_t  gradients of the normalised row times the weights
//   dxv  = r q - xv r^3 mean(q xv)
// Every parameter gradient follows from k + 1 sums per channel, with h_t = g_t r_t v_t:
//   P_j = sum_t h_t r_s x_s and B = sum_t h_t:  dw_j = m n P_j, db = n B, dm = n sum_j w_j P_j, dn = b B + m sum_j w_j P_j
#include "gated_conv.cuh"

namespace lyra::cuda {
namespace {

constexpr int64_t kMaxBlocks = 512;  // each leaves a row of partial sums; their number depends on the shape alone

template <class T>
struct BackwardPointers {
  const T *xv, *grad;
  const Compute<T>*weight, *bias, *norm;
  T* dxv;
  Compute<T>* partial;  // (blocks, k + 1, E)
};

// The gradients q of channels c .. c + N - 1 at one token.
template <class T, int N, bool STAGED>
__device__ __forceinline__ void normalised_gradients(const GatedTile<T, N, STAGED>& tile, const BackwardPointers<T>& p,
                                     const Compute<T>* weights, int row, int c, Compute<T> (&qx)[N],
                                     Compute<T> (&qv)[N]) {
  using R = Compute<T>;
  const int E = tile.shape.channels;
  const int width = tile.shape.width;
  using Row = ParameterRow<R, N>;
  R conv[N], value[N], g[N], m[N], n[N], bias[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    conv[i] = 0;
    qx[i] = 0;
  }
  for (int j = 0; j < width; ++j) {
    const int reads = row - tile.shape.left + j, feeds = row + tile.shape.left - j;
    const R inverse = tile.inverse[reads], scale = tile.inverse[feeds];
    R tap[N];
#pragma unroll
    for (int i = 0; i < N; ++i) tap[i] = STAGED ? R(0) : p.weight[(c + i) * width + j];
    if (STAGED) Row::read(weights + j * E, c, E, tap);
    tile.read(reads, 0, c, value);
#pragma unroll
    for (int i = 0; i < N; ++i) conv[i] += tap[i] * inverse * value[i];
    tile.read(feeds, 1, c, value);
    tile.read(feeds, 2, c, g);
#pragma unroll
    for (int i = 0; i < N; ++i) qx[i] += tap[i] * scale * value[i] * g[i];
  }
  tile.read(row, 2, c, g);
  if (STAGED) {
    Row::read(weights + width * E, c, E, m);
    Row::read(weights + (width + 1) * E, c, E, n);
    Row::read(weights + (width + 2) * E, c, E, bias);
  } else {
    for (int i = 0; i < N; ++i) {
      m[i] = p.norm ? p.norm[c + i] : R(1);
      n[i] = p.norm ? p.norm[E + c + i] : R(1);
      bias[i] = p.bias ? p.bias[c + i] : R(0);
    }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
    qx[i] *= m[i] * n[i];
    qv[i] = n[i] * g[i] * (conv[i] * m[i] + bias[i]);
  }
}

// Adds the tile's share of P and B: column (j, e), j = k for B, its tokens split into `segments`.
template <class T, bool STAGED, class TileOf>
__device__ void add_parameter_sums(const TileOf& tile, int segments, Compute<T>* sums) {
  using R = Compute<T>;
  const int E = tile.shape.channels, columns = E * (tile.shape.width + 1);
  for (int task = threadIdx.x; task < columns * segments; task += kGatedThreads) {
    const int e = task % E, j = task / E % (tile.shape.width + 1), segment = task / columns;
    R sum = 0;
    for (int t = segment; t < tile.shape.tokens; t += segments) {
      const int row = t + tile.shape.before, reads = row - tile.shape.left + j;
      if (!tile.inside(row)) break;
      R v[1], g[1], x[1];
      tile.read(row, 1, e, v);
      tile.read(row, 2, e, g);
      R h = g[0] * v[0] * tile.inverse[row];
      if (j < tile.shape.width) {
        tile.read(reads, 0, e, x);
        h *= x[0] * tile.inverse[reads];
      }
      sum += h;
    }
    sums[task] += sum;
  }
}

// Shared memory after the tile, when staged: taps (k, E), norm of x and of v (E each), bias (E), sums (segments, k + 1, E).
template <class T, int N, bool STAGED>
__global__ void __launch_bounds__(kGatedThreads, kGatedBlocks)
    gated_conv_gradients(BackwardPointers<T> p, Layout layout, GatedShape shape, int segments, int64_t tiles,
                         Compute<T> eps) {
  using R = Compute<T>;
  DYNAMIC_SHARED(unsigned char, memory);
  const int E = shape.channels, columns = E * (shape.width + 1);
  R* inverse = reinterpret_cast<R*>(memory);
  memory += (shape.rows() * sizeof(R) + 15) / 16 * 16;
  T* staged = reinterpret_cast<T*>(memory);
  R* weights = reinterpret_cast<R*>(memory + (shape.rows() * 3 * E * sizeof(T) + 15) / 16 * 16);
  R* sums = STAGED ? weights + (shape.width + 3) * E : p.partial + static_cast<int64_t>(blockIdx.x) * columns;
  for (int i = threadIdx.x; i < columns * segments; i += kGatedThreads) sums[i] = 0;
  if (STAGED)
    stage_parameters<ParameterRow<R, N>>(weights, reinterpret_cast<R*>(staged), E, shape.width, shape.width + 3, [&](int i) {
      if (i < E * shape.width) return p.weight[i];
      const int e = i - E * shape.width;
      if (e < 2 * E) return p.norm ? p.norm[e] : R(1);
      return p.bias ? p.bias[e - 2 * E] : R(0);
    });

  const int lane = threadIdx.x % shape.lanes, group = threadIdx.x / shape.lanes, groups = kGatedThreads / shape.lanes;
  for (int64_t slot = blockIdx.x; slot < tiles; slot += gridDim.x) {
    GatedTile<T, N, STAGED> tile{shape, find_tile(layout, slot, shape.shift), p.xv, p.grad, inverse, staged, 3};
    if (tile.tile.start >= tile.tile.rows) continue;  // the same for the whole block
    __syncthreads();
    tile.fill(p.norm, eps);
    __syncthreads();
    for (int base = 0; base < shape.tokens; base += groups) {
      const int t = base + group, row = t + shape.before;
      const bool real = t < shape.tokens && tile.inside(row);
      R dot = 0, qx[N], qv[N], x[N], v[N];
      if (real && p.norm)
        for (int c = lane * N; c < E; c += shape.lanes * N) {
          normalised_gradients(tile, p, weights, row, c, qx, qv);
          tile.read(row, 0, c, x);
          tile.read(row, 1, c, v);
#pragma unroll
          for (int i = 0; i < N; ++i) dot += qx[i] * x[i] + qv[i] * v[i];
        }
      dot = group_sum(dot, shape.lanes);
      if (t >= shape.tokens || tile.tile.start + t >= tile.tile.rows) continue;
      const R r = inverse[row], pull = dot * r * r * R(shape.mean);
      T* target = p.dxv + tile.global_row(row) * 2 * E;
      for (int c = lane * N; c < E; c += shape.lanes * N) {
#pragma unroll
        for (int i = 0; i < N; ++i) qx[i] = qv[i] = x[i] = v[i] = 0;
        if (real) {
          normalised_gradients(tile, p, weights, row, c, qx, qv);
          tile.read(row, 0, c, x);
          tile.read(row, 1, c, v);
        }
#pragma unroll
        for (int i = 0; i < N; ++i) {
          qx[i] = r * (qx[i] - x[i] * pull);
          qv[i] = r * (qv[i] - v[i] * pull);
        }
        store<N>(target + c, qx);
        store<N>(target + E + c, qv);
      }
    }
    GatedTile<T, 1, STAGED> narrow{shape, tile.tile, p.xv, p.grad, inverse, staged, 3};
    add_parameter_sums<T, STAGED>(narrow, segments, sums);
  }
  if (!STAGED) return;
  __syncthreads();
  for (int i = threadIdx.x; i < columns; i += kGatedThreads) {
    R sum = 0;
    for (int s = 0; s < segments; ++s) sum += sums[s * columns + i];
    p.partial[static_cast<int64_t>(blockIdx.x) * columns + i] = sum;
  }
}

template <class R>
__global__ void gated_conv_parameter_gradients(const R* __restrict__ sums, const R* __restrict__ weight,
                                               const R* __restrict__ bias, const R* __restrict__ norm,
                                               int64_t channels, int width, R* __restrict__ dweight,
                                               R* __restrict__ dbias, R* __restrict__ dnorm) {
  const int64_t e = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (e >= channels) return;
  const R m = norm ? norm[e] : R(1), n = norm ? norm[channels + e] : R(1), total = sums[width * channels + e];
  R through_taps = 0;
  for (int j = 0; j < width; ++j) {
    const R sum = sums[j * channels + e];
    dweight[e * width + j] = m * n * sum;
    through_taps += weight[e * width + j] * sum;
  }
  if (dbias) dbias[e] = n * total;
  if (dnorm) {
    dnorm[e] = n * through_taps;
    dnorm[channels + e] = m * through_taps + (bias ? bias[e] * total : R(0));
  }
}

int segments_for(const GatedConvArgs& args) {
  const int64_t columns = args.channels * (args.width + 1);
  const int64_t fit = kGatedThreads / (columns > 0 ? columns : 1);
  return static_cast<int>(fit < 1 ? 1 : fit > 8 ? 8 : fit);
}

template <class T, int N, bool STAGED>
void run_backward(const GatedConvBackwardArgs& args, const GatedShape& shape, int64_t extra) {
  using R = Compute<T>;
  const GatedConvArgs& f = args.forward;
  const int64_t tiles = f.layout.tiles(shape.tokens), blocks = tiles < kMaxBlocks ? tiles : kMaxBlocks;
  const int64_t columns = f.channels * (f.width + 1);
  R* sums = static_cast<R*>(args.workspace);
  R* partial = sums + columns;
  const auto* weight = static_cast<const R*>(f.conv_weight);
  const auto* bias = static_cast<const R*>(f.conv_bias);
  const auto* norm = static_cast<const R*>(f.norm_weight);
  launch("gated_conv_gradients", gated_conv_gradients<T, N, STAGED>, blocks, kGatedThreads,
         staged_bytes<T>(shape, 3, STAGED ? extra : 0), f.stream,
         BackwardPointers<T>{static_cast<const T*>(f.xv), static_cast<const T*>(args.grad), weight, bias, norm,
                             static_cast<T*>(args.dxv), partial},
         f.layout, shape, STAGED ? segments_for(f) : 1, tiles, static_cast<R>(f.eps));
  sum_columns<R>(partial, blocks, columns, sums, f.stream);
  launch("gated_conv_parameter_gradients", gated_conv_parameter_gradients<R>, (f.channels + 127) / 128, 128, 0,
         f.stream, sums, weight, bias, norm, f.channels, shape.width, static_cast<R*>(args.dconv_weight),
         static_cast<R*>(args.dconv_bias), static_cast<R*>(args.dnorm_weight));
}

}  // namespace

size_t gated_conv_backward_workspace(const GatedConvArgs& args) {
  return (kMaxBlocks + 1) * args.channels * (args.width + 1) * compute_bytes(args.dtype);
}

void gated_conv_backward(const GatedConvBackwardArgs& args) {
  const GatedConvArgs& f = args.forward;
  if (f.channels == 0) return;
  with_storage_type(f.dtype, [&](auto* p) {
    using T = Pointee<decltype(p)>;
    const bool wide = vectorizable<T>(f.channels, f.xv, args.grad, args.dxv);
    const int64_t extra = f.channels * (f.width + 3) + f.channels * (f.width + 1) * segments_for(f);
    const GatedShape shape = choose_shape<T>(f, 3, true, extra, wide ? kVector<T> : 1);
    with_width<T>(wide, [&](auto width) {
      constexpr int N = decltype(width)::value;
      shape.staged ? run_backward<T, N, true>(args, shape, extra) : run_backward<T, N, false>(args, shape, extra);
    });
  });
}

}  // namespace lyra::cuda
