// Storage types and the arithmetic on them: float and 16-bit storage compute in float, double in double.
#pragma once

#include "platform.cuh"

namespace lyra::cuda {

template <class T>
struct ComputeOf { using type = float; };
template <>
struct ComputeOf<double> { using type = double; };
template <class T>
using Compute = typename ComputeOf<T>::type;

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(__half x) { return __half2float(x); }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T>
struct Narrow;
template <>
struct Narrow<float> { __device__ static float from(float x) { return x; } };
template <>
struct Narrow<double> { __device__ static double from(double x) { return x; } };
template <>
struct Narrow<__half> { __device__ static __half from(float x) { return __float2half_rn(x); } };
template <>
struct Narrow<__nv_bfloat16> { __device__ static __nv_bfloat16 from(float x) { return __float2bfloat16_rn(x); } };

// How many elements of T one 16-byte access holds.
template <class T>
constexpr int kVector = 16 / sizeof(T);

// N neighbours, N = 1 or kVector<T>; the pointer must be aligned for it.
template <int N, class T>
__device__ inline void load(const T* p, Compute<T> (&out)[N]) {
  if constexpr (N == 1) {
    out[0] = widen(*p);
  } else {
    static_assert(N == kVector<T>);
    const uint4 raw = *reinterpret_cast<const uint4*>(p);
    T elements[N];
    memcpy(elements, &raw, sizeof raw);
#pragma unroll
    for (int i = 0; i < N; ++i) out[i] = widen(elements[i]);
  }
}

// The same without a conversion.
template <int N, class T>
__device__ inline void copy(const T* p, T (&out)[N]) {
  if constexpr (N == 1) {
    out[0] = *p;
  } else {
    static_assert(N == kVector<T>);
    const uint4 raw = *reinterpret_cast<const uint4*>(p);
    memcpy(out, &raw, sizeof raw);
  }
}

template <int N, class T>
__device__ inline void store(T* p, const Compute<T> (&in)[N]) {
  if constexpr (N == 1) {
    *p = Narrow<T>::from(in[0]);
  } else {
    static_assert(N == kVector<T>);
    T elements[N];
#pragma unroll
    for (int i = 0; i < N; ++i) elements[i] = Narrow<T>::from(in[i]);
    uint4 raw;
    memcpy(&raw, elements, sizeof raw);
    *reinterpret_cast<uint4*>(p) = raw;
  }
}

// N neighbouring parameters, N = 1 or a multiple of kVector<R>; in pieces of 16 bytes, which the pointer must be aligned
// for.
template <int N, class R>
__device__ inline void load_row(const R* p, R (&out)[N]) {
  constexpr int kPiece = N == 1 ? 1 : kVector<R>;
#pragma unroll
  for (int q = 0; q < N; q += kPiece) {
    R piece[kPiece];
    load<kPiece>(p + q, piece);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) out[q + i] = piece[i];
  }
}

// True where rows of `channels` elements from each of these pointers can be read in 16-byte accesses.
template <class T, class... P>
bool vectorizable(int64_t channels, P... pointers) {
  return channels % kVector<T> == 0 && ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

// f(elements of one access as a constant)
template <class T, class F>
void with_width(bool wide, F&& f) {
  wide ? f(std::integral_constant<int, kVector<T>>()) : f(std::integral_constant<int, 1>());
}

template <class R>
struct alignas(2 * sizeof(R)) Complex {
  R re, im;
};
template <class R>
__device__ inline Complex<R> operator+(Complex<R> x, Complex<R> y) { return {x.re + y.re, x.im + y.im}; }
template <class R>
__device__ inline Complex<R> operator-(Complex<R> x, Complex<R> y) { return {x.re - y.re, x.im - y.im}; }
template <class R>
__device__ inline Complex<R> operator*(Complex<R> x, Complex<R> y) {
  return {x.re * y.re - x.im * y.im, x.re * y.im + x.im * y.re};
}
template <class R>
__device__ inline Complex<R> operator*(R x, Complex<R> y) { return {x * y.re, x * y.im}; }
// x y + z with its four products fused into sums.
template <class R>
__device__ inline Complex<R> fma(Complex<R> x, Complex<R> y, Complex<R> z) {
  return {x.re * y.re + (z.re - x.im * y.im), x.re * y.im + (z.im + x.im * y.re)};
}

// One access for both parts, which may be given as a pointer to the first.
template <class R>
__device__ inline Complex<R> load_complex(const void* p) {
  using Raw = std::conditional_t<sizeof(R) == 4, uint64_t, uint4>;
  const Raw raw = *static_cast<const Raw*>(p);
  Complex<R> z;
  memcpy(&z, &raw, sizeof raw);
  return z;
}
template <class R>
__device__ inline void store_complex(void* p, Complex<R> z) {
  using Raw = std::conditional_t<sizeof(R) == 4, uint64_t, uint4>;
  Raw raw;
  memcpy(&raw, &z, sizeof raw);
  *static_cast<Raw*>(p) = raw;
}

template <class F>
void with_storage_type(DType dtype, F&& f) {
  lyra::with_storage_type<__half, __nv_bfloat16>(dtype, f);
}

}  // namespace lyra::cuda
