// A group of lanes per row, the row in registers as far as it fits; see rms_norm.h.
#include "rms_norm.h"

#include "reduce.cuh"

namespace lyra::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 2;         // on a multiprocessor, at least; untold, ptxas aims at more and spills
constexpr int kRowsPerGroup = 16;  // rows that reuse the weights in the registers of one group of lanes
// Accesses per lane and row that stay in registers; the rest is read twice.
template <int N>
constexpr int kKept = N == 8 ? 2 : 4;
constexpr int kRowsPerShare = 4;  // rows of a group, at least, for a row of partial sums
constexpr int64_t kMaxBlocks = 1024;

// The weights of this lane's channels, ones where there are none.
template <int N, class R>
__device__ inline void keep_weights(const R* weight, int64_t packs, int lane, int lanes, R (&scale)[kKept<N>][N]) {
#pragma unroll
  for (int k = 0; k < kKept<N>; ++k) {
#pragma unroll
    for (int i = 0; i < N; ++i) scale[k][i] = 1;
    if (weight && lane + k * lanes < packs) load_row<N>(weight + (lane + k * lanes) * N, scale[k]);
  }
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads, kBlocks)
    rms_norm_forward(const T* __restrict__ x, const Compute<T>* __restrict__ weight, T* __restrict__ y, int64_t rows,
                     int64_t channels, Compute<T> eps, int lanes) {
  using R = Compute<T>;
  const int lane = threadIdx.x % lanes, groups = kThreads / lanes;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * groups + threadIdx.x / lanes) * kRowsPerGroup;
  const int64_t packs = channels / N;
  R scale[kKept<N>][N];
  keep_weights<N>(weight, packs, lane, lanes, scale);
  for (int j = 0; j < kRowsPerGroup; ++j) {  // the same number of turns for all lanes: they shuffle
    const int64_t row = first + j;
    const bool real = row < rows;
    const T* source = x + row * channels;
    R kept[kKept<N>][N], sum = 0;
#pragma unroll
    for (int k = 0; k < kKept<N>; ++k)
      if (real && lane + k * lanes < packs) {
        load<N>(source + (lane + k * lanes) * N, kept[k]);
#pragma unroll
        for (int i = 0; i < N; ++i) sum += kept[k][i] * kept[k][i];
      }
    if (real)
      for (int64_t p = lane + kKept<N> * lanes; p < packs; p += lanes) {
        R value[N];
        load<N>(source + p * N, value);
#pragma unroll
        for (int i = 0; i < N; ++i) sum += value[i] * value[i];
      }
    const R inverse = rsqrt(group_sum(sum, lanes) / R(channels) + eps);
    if (!real) continue;
    T* target = y + row * channels;
#pragma unroll
    for (int k = 0; k < kKept<N>; ++k)
      if (lane + k * lanes < packs) {
#pragma unroll
        for (int i = 0; i < N; ++i) kept[k][i] *= inverse * scale[k][i];
        store<N>(target + (lane + k * lanes) * N, kept[k]);
      }
    for (int64_t p = lane + kKept<N> * lanes; p < packs; p += lanes) {
      R value[N];
      load<N>(source + p * N, value);
#pragma unroll
      for (int i = 0; i < N; ++i) value[i] *= inverse * (weight ? weight[p * N + i] : R(1));
      store<N>(target + p * N, value);
    }
  }
}

// With q = grad * weight and r = 1 / sqrt(mean(x^2) + eps): dx = r q - x r^3 mean(q x), dweight = sum grad x r.
// Each block walks over rows and leaves its share of dweight in a row of `partial`; where a row does not fit registers,
// each group of lanes does.
template <class T, int N>
__global__ void __launch_bounds__(kThreads, kBlocks)
    rms_norm_gradients(const T* __restrict__ grad, const T* __restrict__ x, const Compute<T>* __restrict__ weight,
                       T* __restrict__ dx, Compute<T>* __restrict__ partial, int64_t rows, int64_t channels,
                       Compute<T> eps, int lanes) {
  using R = Compute<T>;
  const int lane = threadIdx.x % lanes, group = threadIdx.x / lanes, groups = kThreads / lanes;
  const int64_t packs = channels / N, stride = static_cast<int64_t>(gridDim.x) * groups;
  const bool fits = packs <= kKept<N> * lanes;
  R* mine = nullptr;
  if (partial) mine = partial + (fits ? blockIdx.x : static_cast<int64_t>(blockIdx.x) * groups + group) * channels;
  R scale[kKept<N>][N], dweight[kKept<N>][N] = {};
  keep_weights<N>(weight, packs, lane, lanes, scale);
  if (mine)
    for (int64_t p = lane + kKept<N> * lanes; p < packs; p += lanes)
      for (int i = 0; i < N; ++i) mine[p * N + i] = 0;
  for (int64_t base = static_cast<int64_t>(blockIdx.x) * groups; base < rows; base += stride) {
    const int64_t row = base + group;
    const bool real = row < rows;
    R squares = 0, dot = 0;
    R xs[kKept<N>][N], gs[kKept<N>][N];
#pragma unroll
    for (int k = 0; k < kKept<N>; ++k)
      if (real && lane + k * lanes < packs) {
        const int64_t c = (lane + k * lanes) * N;
        load<N>(x + row * channels + c, xs[k]);
        load<N>(grad + row * channels + c, gs[k]);
#pragma unroll
        for (int i = 0; i < N; ++i) {
          squares += xs[k][i] * xs[k][i];
          dot += xs[k][i] * gs[k][i] * scale[k][i];
        }
      }
    if (real)
      for (int64_t p = lane + kKept<N> * lanes; p < packs; p += lanes) {
        R xv[N], gv[N];
        load<N>(x + row * channels + p * N, xv);
        load<N>(grad + row * channels + p * N, gv);
#pragma unroll
        for (int i = 0; i < N; ++i) {
          squares += xv[i] * xv[i];
          dot += xv[i] * gv[i] * (weight ? weight[p * N + i] : R(1));
        }
      }
    const R inverse = rsqrt(group_sum(squares, lanes) / R(channels) + eps);
    const R pull = group_sum(dot, lanes) / R(channels) * inverse * inverse;
    if (!real) continue;
#pragma unroll
    for (int k = 0; k < kKept<N>; ++k)
      if (lane + k * lanes < packs) {
        const int64_t c = (lane + k * lanes) * N;
#pragma unroll
        for (int i = 0; i < N; ++i) {
          dweight[k][i] += gs[k][i] * xs[k][i] * inverse;
          gs[k][i] = inverse * (gs[k][i] * scale[k][i] - xs[k][i] * pull);
        }
        store<N>(dx + row * channels + c, gs[k]);
      }
    for (int64_t p = lane + kKept<N> * lanes; p < packs; p += lanes) {
      R xv[N], gv[N];
      load<N>(x + row * channels + p * N, xv);
      load<N>(grad + row * channels + p * N, gv);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        if (mine) mine[p * N + i] += gv[i] * xv[i] * inverse;
        gv[i] = inverse * (gv[i] * (weight ? weight[p * N + i] : R(1)) - xv[i] * pull);
      }
      store<N>(dx + row * channels + p * N, gv);
    }
  }
  if (!mine) return;
  if (!fits) {
#pragma unroll
    for (int k = 0; k < kKept<N>; ++k)
      if (lane + k * lanes < packs)
#pragma unroll
        for (int i = 0; i < N; ++i) mine[(lane + k * lanes) * N + i] = dweight[k][i];
    return;
  }
  constexpr int kPitch = kThreads + 128 / sizeof(R) / N;  // such that a warp's reads meet each bank once
  SHARED_ARRAY(R, shares, [N * kPitch]);
#pragma unroll
  for (int k = 0; k < kKept<N>; ++k) {
    if (k * lanes >= packs) break;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < N; ++i) shares[i * kPitch + threadIdx.x] = dweight[k][i];
    __syncthreads();
    for (int j = threadIdx.x; j < lanes * N && j < channels - k * lanes * N; j += kThreads) {
      R sum = 0;
      for (int g = 0; g < groups; ++g) sum += shares[j % N * kPitch + g * lanes + j / N];
      mine[k * lanes * N + j] = sum;
    }
  }
}

int lanes_for(const RmsNormArgs& args, int elements) { return lanes_per_row(args.channels / elements); }

int64_t gradient_blocks(const RmsNormArgs& args, int lanes) {
  const int64_t rows = static_cast<int64_t>(kThreads / lanes) * kRowsPerShare, wanted = (args.rows + rows - 1) / rows;
  return wanted < kMaxBlocks ? wanted : kMaxBlocks;
}

// Rows of `partial`.
template <int N>
int64_t gradient_shares(const RmsNormArgs& args, int lanes) {
  const bool fits = args.channels / N <= kKept<N> * lanes;
  return gradient_blocks(args, lanes) * (fits ? 1 : kThreads / lanes);
}

template <class T, int N>
void run_forward(const RmsNormArgs& args) {
  using R = Compute<T>;
  const int lanes = lanes_for(args, N);
  const int64_t rows_per_block = static_cast<int64_t>(kThreads / lanes) * kRowsPerGroup;
  launch("rms_norm_forward", rms_norm_forward<T, N>, (args.rows + rows_per_block - 1) / rows_per_block, kThreads, 0,
         args.stream, static_cast<const T*>(args.x), static_cast<const R*>(args.weight), static_cast<T*>(args.y),
         args.rows, args.channels, static_cast<R>(args.eps), lanes);
}

template <class T, int N>
void run_backward(const RmsNormBackwardArgs& args) {
  using R = Compute<T>;
  const RmsNormArgs& forward = args.forward;
  const int lanes = lanes_for(forward, N);
  const int64_t blocks = gradient_blocks(forward, lanes);
  R* partial = args.dweight ? static_cast<R*>(args.workspace) : nullptr;
  launch("rms_norm_gradients", rms_norm_gradients<T, N>, blocks, kThreads, 0, forward.stream,
         static_cast<const T*>(args.grad), static_cast<const T*>(forward.x), static_cast<const R*>(forward.weight),
         static_cast<T*>(args.dx), partial, forward.rows, forward.channels, static_cast<R>(forward.eps), lanes);
  if (args.dweight)
    sum_columns<R>(partial, gradient_shares<N>(forward, lanes), forward.channels, static_cast<R*>(args.dweight),
                   forward.stream);
}

}  // namespace

void rms_norm(const RmsNormArgs& args) {
  if (args.rows == 0 || args.channels == 0) return;
  with_storage_type(args.dtype, [&](auto* p) {
    using T = Pointee<decltype(p)>;
    with_width<T>(vectorizable<T>(args.channels, args.x, args.y, args.weight),
                  [&](auto width) { run_forward<T, decltype(width)::value>(args); });
  });
}

size_t rms_norm_backward_workspace(const RmsNormArgs& args) {
  // Where an access holds more elements there are fewer lanes to a row and more groups: the largest of all widths.
  int64_t shares = 0;
  for (int64_t found : {gradient_shares<1>(args, lanes_for(args, 1)), gradient_shares<2>(args, lanes_for(args, 2)),
                        gradient_shares<4>(args, lanes_for(args, 4)), gradient_shares<8>(args, lanes_for(args, 8))})
    if (found > shares) shares = found;
  return static_cast<size_t>(shares) * args.channels * compute_bytes(args.dtype);
}

void rms_norm_backward(const RmsNormBackwardArgs& args) {
  const RmsNormArgs& forward = args.forward;
  if (forward.channels == 0) return;
  with_storage_type(forward.dtype, [&](auto* p) {
    using T = Pointee<decltype(p)>;
    with_width<T>(vectorizable<T>(forward.channels, forward.x, args.grad, args.dx, forward.weight),
                  [&](auto width) { run_backward<T, decltype(width)::value>(args); });
  });
}

}  // namespace lyra::cuda
