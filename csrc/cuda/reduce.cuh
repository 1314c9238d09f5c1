// Sums whose order does not depend on timing.
#pragma once

#include "types.cuh"

namespace lyra::cuda {

// The sum over each aligned group of `width` lanes (a power of two), given to all of them.
template <class R>
__device__ inline R group_sum(R value, int width) {
  for (int offset = width / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kFullMask, value, offset);
  return value;
}

// N values from each lane. Lane i gets value (i / STRIDE) % N, summed over the N lanes whose numbers differ from its own
// in those digits alone. N - 1 shuffles. The width is a constant of each step, so that the values stay in registers.
template <int STRIDE = 1, int N, int WIDTH = N / 2, class R>
__device__ __forceinline__ R reduce_scatter(R (&value)[N], int lane) {
  const bool upper = lane & WIDTH * STRIDE;
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) {
    const R give = upper ? value[i] : value[i + WIDTH];
    const R keep = upper ? value[i + WIDTH] : value[i];
    value[i] = keep + __shfl_xor_sync(kFullMask, give, WIDTH * STRIDE);
  }
  if constexpr (WIDTH > 1) return reduce_scatter<STRIDE, N, WIDTH / 2>(value, lane);
  return value[0];
}

// How many lanes serve a row of `packs` accesses: a power of two up to a warp.
inline int lanes_per_row(int64_t packs) {
  int lanes = 1;
  while (lanes < kWarp && lanes < packs) lanes *= 2;
  return lanes;
}

constexpr int kSumRows = 8;  // threads that share the rows of a column

// sums[c] = sum over rows of partial[row][c], in double and always in the same order.
template <class R>
__global__ void __launch_bounds__(kWarp* kSumRows)
    column_sums(const R* __restrict__ partial, int64_t rows, int64_t columns, R* __restrict__ sums) {
  SHARED_ARRAY(double, part, [kSumRows][kWarp]);
  const int lane = threadIdx.x % kWarp, group = threadIdx.x / kWarp;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + lane;
  double sum = 0;
  if (column < columns)
    for (int64_t row = group; row < rows; row += kSumRows) sum += partial[row * columns + column];
  part[group][lane] = sum;
  __syncthreads();
  if (group == 0 && column < columns) {
    for (int i = 1; i < kSumRows; ++i) sum += part[i][lane];
    sums[column] = static_cast<R>(sum);
  }
}

template <class R>
void sum_columns(const R* partial, int64_t rows, int64_t columns, R* sums, Stream stream) {
  launch("column_sums", column_sums<R>, (columns + kWarp - 1) / kWarp, kWarp * kSumRows, 0, stream, partial, rows,
         columns, sums);
}

}  // namespace lyra::cuda
