// The CUDA subset that csrc/cuda uses, for g++: include it in place of <cuda_runtime.h> and link runtime.cpp.
//
// Differences that a kernel must allow for, all wrapped by csrc/cuda/platform.cuh:
//   - shared arrays are declared with SHARED_ARRAY / DYNAMIC_SHARED and kernels are started with emu::launch;
//   - a shuffle exchanges values of at most 8 bytes, and its source lane must be in the mask;
//   - streams do nothing: a launch has finished when it returns.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "runtime.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

#define SHARED_ARRAY(T, name, dims)   \
  static const char name##_key = 0;   \
  typedef T name##_type dims;         \
  name##_type& name = *static_cast<name##_type*>(emu::shared_array(&name##_key, sizeof(name##_type), #name))
#define DYNAMIC_SHARED(T, name) T* name = static_cast<T*>(emu::dynamic_shared())

#define threadIdx (emu::lane->index)
#define blockIdx (emu::block.index)
#define blockDim (emu::block.size)
#define gridDim (emu::block.grid)
constexpr int warpSize = emu::kWarp;

using cudaStream_t = void*;

// ---- vector types ----------------------------------------------------------------------------------------------
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---- 16-bit floating point ---------------------------------------------------------------------------------------
struct __half { uint16_t bits; };
struct __nv_bfloat16 { uint16_t bits; };

inline float __half2float(__half h) {
  _Float16 f;
  std::memcpy(&f, &h.bits, 2);
  return static_cast<float>(f);
}
inline __half __float2half_rn(float x) {
  const _Float16 f = static_cast<_Float16>(x);
  __half h;
  std::memcpy(&h.bits, &f, 2);
  return h;
}
inline float __bfloat162float(__nv_bfloat16 b) {
  const uint32_t u = static_cast<uint32_t>(b.bits) << 16;
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  if (x != x) return {0x7FFF};
  return {static_cast<uint16_t>((u + 0x7FFF + (u >> 16 & 1)) >> 16)};  // to nearest, ties to even
}

// ---- mathematics -------------------------------------------------------------------------------------------------
using std::max;
using std::min;
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float rsqrt(float x) { return rsqrtf(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
template <class T>
void emu_sincospi(T x, T* sine, T* cosine) {
  constexpr T kPi = T(3.14159265358979323846);
  const T quarter = std::round(x * 2);                 // exact reduction to [-1/4, 1/4] half turns
  const T rest = (x - quarter / 2) * kPi;
  const T s = std::sin(rest), c = std::cos(rest);
  switch (static_cast<long long>(quarter) & 3) {
    case 0: *sine = s, *cosine = c; break;
    case 1: *sine = c, *cosine = -s; break;
    case 2: *sine = -s, *cosine = -c; break;
    default: *sine = -c, *cosine = s; break;
  }
}
inline void sincospif(float x, float* s, float* c) { emu_sincospi(x, s, c); }
inline void sincospi(double x, double* s, double* c) { emu_sincospi(x, s, c); }
template <class T>
T __ldg(const T* p) { return *p; }

// ---- barriers, shuffles, votes -----------------------------------------------------------------------------------
#define EMU_SITE(what) emu::Site{what, file, line}
#define EMU_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(EMU_HERE) { emu::sync_block(EMU_SITE("__syncthreads")); }
inline void __syncwarp(unsigned mask = ~0u, EMU_HERE) {
  emu::exchange(emu::Exchange::sync, mask, 0, 0, EMU_SITE("__syncwarp"));
}

template <class T>
T emu_shuffle(unsigned mask, T value, unsigned source, emu::Site site) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = emu::exchange(emu::Exchange::shuffle, mask, bits, source, site);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
// `width` splits the warp into segments that shuffle among themselves; a source outside the own segment is oneself.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMU_HERE) {
  const unsigned me = emu::lane->linear % 32, w = width;
  return emu_shuffle(mask, value, (me & ~(w - 1)) | (source & (w - 1)), EMU_SITE("__shfl_sync"));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, EMU_HERE) {
  const unsigned me = emu::lane->linear % 32, w = width, source = me ^ lanes;
  return emu_shuffle(mask, value, source / w <= me / w ? source : me, EMU_SITE("__shfl_xor_sync"));
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32, EMU_HERE) {
  const unsigned me = emu::lane->linear % 32, w = width;
  return emu_shuffle(mask, value, me % w + lanes < w ? me + lanes : me, EMU_SITE("__shfl_down_sync"));
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32, EMU_HERE) {
  const unsigned me = emu::lane->linear % 32, w = width;
  return emu_shuffle(mask, value, me % w >= lanes ? me - lanes : me, EMU_SITE("__shfl_up_sync"));
}
inline unsigned __ballot_sync(unsigned mask, int predicate, EMU_HERE) {
  return emu::exchange(emu::Exchange::ballot, mask, predicate != 0, 0, EMU_SITE("__ballot_sync"));
}
inline int __any_sync(unsigned mask, int predicate, EMU_HERE) { return __ballot_sync(mask, predicate, file, line) != 0; }
inline int __all_sync(unsigned mask, int predicate, EMU_HERE) {
  return __ballot_sync(mask, !predicate, file, line) == 0;
}

// ---- atomics: relaxed, as CUDA's ---------------------------------------------------------------------------------
// Hidden from the monitor, which would otherwise take the update for a plain load and store.
#define EMU_ATOMIC template <class T> __attribute__((noinline, no_sanitize("thread")))
#ifdef EMU_THREADS
#undef EMU_ATOMIC
#define EMU_ATOMIC template <class T>
#endif
template <class T, class F>
__attribute__((always_inline)) inline T emu_update(T* p, F next) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  Bits* address = reinterpret_cast<Bits*>(p);
  Bits old = __atomic_load_n(address, __ATOMIC_RELAXED), wanted;
  T value;
  do {
    std::memcpy(&value, &old, sizeof value);
    const T updated = next(value);
    std::memcpy(&wanted, &updated, sizeof wanted);
  } while (!__atomic_compare_exchange_n(address, &old, wanted, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return value;
}
EMU_ATOMIC T atomicAdd(T* p, T v) { return emu_update(p, [v](T old) __attribute__((always_inline)) { return old + v; }); }
EMU_ATOMIC T atomicMax(T* p, T v) { return emu_update(p, [v](T old) __attribute__((always_inline)) { return old < v ? v : old; }); }
EMU_ATOMIC T atomicExch(T* p, T v) { return emu_update(p, [v](T) __attribute__((always_inline)) { return v; }); }
