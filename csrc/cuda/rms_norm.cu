// A group of lanes per row, the row in registers as far as it fits; see rms_norm.h.
#include "rms_norm.h"

#include "reduce.cuh"

namespace lyra::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRowsPerGroup = 16;  // rows that reuse the weights in the registers of one group of lanes
constexpr int kKept = 4;           // accesses per lane and row that stay in registers; the rest is read twice
constexpr int64_t kMaxBlocks = 1024;

template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    rms_norm_forward(const T* __restrict__ x, const Compute<T>* __restrict__ weight, T* __restrict__ y, int64_t rows,
                     int64_t channels, Compute<T> eps, int lanes) {
  using R = Compute<T>;
  const int lane = threadIdx.x % lanes, groups = kThreads / lanes;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * groups + threadIdx.x / lanes) * kRowsPerGroup;
  const int64_t packs = channels / N;
  R scale[kKept][N];
#pragma unroll
  for (int k = 0; k < kKept; ++k)
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int64_t c = (lane + k * lanes) * N + i;
      scale[k][i] = weight && c < channels ? weight[c] : R(1);
    }
  for (int j = 0; j < kRowsPerGroup; ++j) {  // the same number of turns for all lanes: they shuffle
    const int64_t row = first + j;
    const bool real = row < rows;
    const T* source = x + row * channels;
    R kept[kKept][N], sum = 0;
#pragma unroll
    for (int k = 0; k < kKept; ++k)
      if (real && lane + k * lanes < packs) {
        load<N>(source + (lane + k * lanes) * N, kept[k]);
#pragma unroll
        for (int i = 0; i < N; ++i) sum += kept[k][i] * kept[k][i];
      }
    if (real)
      for (int64_t p = lane + kKept * lanes; p < packs; p += lanes) {
        R value[N];
        load<N>(source + p * N, value);
#pragma unroll
        for (int i = 0; i < N; ++i) sum += value[i] * value[i];
      }
    const R inverse = rsqrt(group_sum(sum, lanes) / R(channels) + eps);
    if (!real) continue;
    T* target = y + row * channels;
#pragma unroll
    for (int k = 0; k < kKept; ++k)
      if (lane + k * lanes < packs) {
#pragma unroll
        for (int i = 0; i < N; ++i) kept[k][i] *= inverse * scale[k][i];
        store<N>(target + (lane + k * lanes) * N, kept[k]);
      }
    for (int64_t p = lane + kKept * lanes; p < packs; p += lanes) {
      R value[N];
      load<N>(source + p * N, value);
#pragma unroll
      for (int i = 0; i < N; ++i) value[i] *= inverse * (weight ? weight[p * N + i] : R(1));
      store<N>(target + p * N, value);
    }
  }
}

// With q = grad * weight and r = 1 / sqrt(mean(x^2) + eps): dx = r q - x r^3 mean(q x), dweight = sum grad x r.
// Each block walks over rows and leaves its share of dweight in partial[block].
template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    rms_norm_gradients(const T* __restrict__ grad, const T* __restrict__ x, const Compute<T>* __restrict__ weight,
                       T* __restrict__ dx, Compute<T>* __restrict__ partial, int64_t rows, int64_t channels,
                       Compute<T> eps, int lanes) {
  using R = Compute<T>;
  const int lane = threadIdx.x % lanes, group = threadIdx.x / lanes, groups = kThreads / lanes;
  const int64_t packs = channels / N, stride = static_cast<int64_t>(gridDim.x) * groups;
  R* mine = partial ? partial + (static_cast<int64_t>(blockIdx.x) * groups + group) * channels : nullptr;
  R dweight[kKept][N] = {};
  if (mine)
    for (int64_t p = lane + kKept * lanes; p < packs; p += lanes)
      for (int i = 0; i < N; ++i) mine[p * N + i] = 0;
  for (int64_t base = static_cast<int64_t>(blockIdx.x) * groups; base < rows; base += stride) {
    const int64_t row = base + group;
    const bool real = row < rows;
    R squares = 0, dot = 0;
    R xs[kKept][N], gs[kKept][N];
#pragma unroll
    for (int k = 0; k < kKept; ++k)
      if (real && lane + k * lanes < packs) {
        const int64_t c = (lane + k * lanes) * N;
        load<N>(x + row * channels + c, xs[k]);
        load<N>(grad + row * channels + c, gs[k]);
#pragma unroll
        for (int i = 0; i < N; ++i) {
          squares += xs[k][i] * xs[k][i];
          dot += xs[k][i] * gs[k][i] * (weight ? weight[c + i] : R(1));
        }
      }
    if (real)
      for (int64_t p = lane + kKept * lanes; p < packs; p += lanes) {
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
    for (int k = 0; k < kKept; ++k)
      if (lane + k * lanes < packs) {
        const int64_t c = (lane + k * lanes) * N;
#pragma unroll
        for (int i = 0; i < N; ++i) {
          dweight[k][i] += gs[k][i] * xs[k][i] * inverse;
          gs[k][i] = inverse * (gs[k][i] * (weight ? weight[c + i] : R(1)) - xs[k][i] * pull);
        }
        store<N>(dx + row * channels + c, gs[k]);
      }
    for (int64_t p = lane + kKept * lanes; p < packs; p += lanes) {
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
#pragma unroll
  for (int k = 0; k < kKept; ++k)
    if (lane + k * lanes < packs)
#pragma unroll
      for (int i = 0; i < N; ++i) mine[(lane + k * lanes) * N + i] = dweight[k][i];
}

int lanes_for(const RmsNormArgs& args, int elements) { return lanes_per_row(args.channels / elements); }

int64_t gradient_blocks(const RmsNormArgs& args, int lanes) {
  const int64_t groups = kThreads / lanes, wanted = (args.rows + groups - 1) / groups;
  return wanted < kMaxBlocks ? wanted : kMaxBlocks;
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
    sum_columns<R>(partial, blocks * (kThreads / lanes), forward.channels, static_cast<R*>(args.dweight),
                   forward.stream);
}

}  // namespace

void rms_norm(const RmsNormArgs& args) {
  if (args.rows == 0 || args.channels == 0) return;
  with_type(args.dtype, [&](auto* p) {
    using T = Pointee<decltype(p)>;
    if (vectorizable<T>(args.channels, args.x, args.y))
      run_forward<T, kVector<T>>(args);
    else
      run_forward<T, 1>(args);
  });
}

size_t rms_norm_backward_workspace(const RmsNormArgs& args) {
  const size_t element = args.dtype == DType::f64 ? 8 : 4;
  // Fewer lanes mean more groups; one lane is the most that either access width can ask for.
  const int lanes = lanes_for(args, 8);
  return element * args.channels * (kThreads / lanes) * gradient_blocks(args, kWarp);
}

void rms_norm_backward(const RmsNormBackwardArgs& args) {
  const RmsNormArgs& forward = args.forward;
  if (forward.channels == 0) return;
  with_type(forward.dtype, [&](auto* p) {
    using T = Pointee<decltype(p)>;
    if (vectorizable<T>(forward.channels, forward.x, args.grad, args.dx))
      run_backward<T, kVector<T>>(args);
    else
      run_backward<T, 1>(args);
  });
}

}  // namespace lyra::cuda
