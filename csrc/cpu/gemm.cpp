#include "gemm.h"

namespace lyra::cpu::LYRA_ISA {
namespace {

// c[i][0 .. kPanel) = start[i][..] + sum over p of a(i, p) b[p][0 .. kPanel) for i < kRows, where a(i, p) is
// a[i * a_stride + p] or, kColumnsOfA, a[i + p * a_stride]. A null start is zero; stride 0 repeats one row (a bias).
template <int kRows, bool kColumnsOfA, class T>
__attribute__((noinline)) void multiply_block(const T* a, int64_t a_stride, const T* b, int64_t b_stride,
                                              int64_t depth, const T* start, int64_t start_stride, T* c,
                                              int64_t c_stride) {
  constexpr int W = kLanes<T>;
  Vec<T> acc[kRows][2];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    acc[i][0] = start ? load(start + i * start_stride) : Vec<T>{};
    acc[i][1] = start ? load(start + i * start_stride + W) : Vec<T>{};
  }
  for (int64_t p = 0; p < depth; ++p) {
    const Vec<T> b0 = load(b), b1 = load(b + W);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const T x = kColumnsOfA ? a[i] : a[i * a_stride];
      acc[i][0] += x * b0;
      acc[i][1] += x * b1;
    }
    a += kColumnsOfA ? a_stride : 1;
    b += b_stride;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    store(c + i * c_stride, acc[i][0]);
    store(c + i * c_stride + W, acc[i][1]);
  }
}

template <bool kColumnsOfA, class T, int kRows = kBlockRows - 1>
LYRA_INLINE void multiply_rest(int64_t rows, const T* a, int64_t a_stride, const T* b, int64_t b_stride,
                               int64_t depth, const T* start, int64_t start_stride, T* c, int64_t c_stride) {
  if constexpr (kRows > 0) {
    if (rows == kRows)
      multiply_block<kRows, kColumnsOfA>(a, a_stride, b, b_stride, depth, start, start_stride, c, c_stride);
    else
      multiply_rest<kColumnsOfA, T, kRows - 1>(rows, a, a_stride, b, b_stride, depth, start, start_stride, c,
                                               c_stride);
  }
}

}  // namespace

template <class T>
void multiply(int64_t rows, int64_t columns, int64_t depth, const T* a, int64_t a_stride, const T* packed,
              const T* bias, T* c, int64_t c_stride) {
  for (int64_t n = 0; n < columns; n += kPanel<T>) {
    const T* panel = packed + n * depth;
    for (int64_t p = 0; p == 0 || p < depth; p += kBlockDepth) {
      const int64_t piece = std::min(kBlockDepth, depth - p);
      const T* b = panel + p * kPanel<T>;
      int64_t i = 0;
      for (; i < rows; i += kBlockRows) {
        T* out = c + i * c_stride + n;
        const T* start = p > 0 ? out : bias ? bias + n : nullptr;
        const int64_t start_stride = p > 0 ? c_stride : 0;
        const T* in = a + i * a_stride + p;
        if (rows - i >= kBlockRows)
          multiply_block<kBlockRows, false>(in, a_stride, b, kPanel<T>, piece, start, start_stride, out, c_stride);
        else
          multiply_rest<false>(rows - i, in, a_stride, b, kPanel<T>, piece, start, start_stride, out, c_stride);
      }
    }
  }
}

template <class T>
void add_outer_products(int64_t rows, int64_t n, int64_t k, const T* dc, int64_t dc_stride, const T* a,
                        int64_t a_stride, T* dw, int64_t dw_stride) {
  for (int64_t j = 0; j < k; j += kPanel<T>)
    for (int64_t i = 0; i < n; i += kBlockRows) {
      T* out = dw + i * dw_stride + j;
      if (n - i >= kBlockRows)
        multiply_block<kBlockRows, true>(dc + i, dc_stride, a + j, a_stride, rows, out, dw_stride, out, dw_stride);
      else
        multiply_rest<true>(n - i, dc + i, dc_stride, a + j, a_stride, rows, out, dw_stride, out, dw_stride);
    }
}

template void multiply(int64_t, int64_t, int64_t, const float*, int64_t, const float*, const float*, float*,
                       int64_t);
template void multiply(int64_t, int64_t, int64_t, const double*, int64_t, const double*, const double*, double*,
                       int64_t);
template void add_outer_products(int64_t, int64_t, int64_t, const float*, int64_t, const float*, int64_t, float*,
                                 int64_t);
template void add_outer_products(int64_t, int64_t, int64_t, const double*, int64_t, const double*, int64_t, double*,
                                 int64_t);

}  // namespace lyra::cpu::LYRA_ISA
