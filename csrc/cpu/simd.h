// Vectors of lanes for the CPU kernels, on the vector extensions of GCC and Clang.
//
// One kernel source serves every instruction set: setup.py compiles each kernel file once per set with its own
// flags and its own LYRA_ISA (a namespace), and dispatch.h chooses at run time. Arithmetic is written with the plain
// operators; a*b+c contracts to a fused multiply-add where the target has one (-ffp-contract=fast). No intrinsics:
// the compiler lowers a 64-byte vector to one, two or four registers, so that any width can be tested on any machine
// (-DLYRA_VECTOR_BYTES=64 on an AVX2 machine runs the very code that AVX-512 machines run).
//
// Why not ATen's Vectorized or Highway: Vectorized needs torch headers (and its ABI), Highway is a second
// dependency to build; neither is needed for loads, stores, arithmetic and conversions.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../batch.h"

#ifndef LYRA_ISA
#define LYRA_ISA baseline
#endif
#ifndef LYRA_VECTOR_BYTES
#if defined(__AVX512F__)
#define LYRA_VECTOR_BYTES 64
#elif defined(__AVX__)
#define LYRA_VECTOR_BYTES 32
#else
#define LYRA_VECTOR_BYTES 16
#endif
#endif

#define LYRA_INLINE inline __attribute__((always_inline))

namespace lyra::cpu::LYRA_ISA {

constexpr int kVectorBytes = LYRA_VECTOR_BYTES;

template <class T>
struct VecType {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
// A register of T; arithmetic with the plain operators, scalars broadcast.
template <class T>
using Vec = typename VecType<T>::type;
template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

// ---- storage types -------------------------------------------------------------------------------------------
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <class To, class From>
LYRA_INLINE To bit_cast(From x) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast needs equal sizes");
  To y;
  __builtin_memcpy(&y, &x, sizeof y);
  return y;
}

// The type that a storage type is computed in.
template <class S>
struct ComputeType {
  using type = S;
};
template <>
struct ComputeType<Half> {
  using type = float;
};
template <>
struct ComputeType<BFloat16> {
  using type = float;
};
template <class S>
using Compute = typename ComputeType<S>::type;

// f(null pointer to the storage type)
template <class F>
LYRA_INLINE void with_storage_type(DType dtype, F&& f) {
  lyra::with_storage_type<Half, BFloat16>(dtype, f);
}

LYRA_INLINE float to_compute(float x) { return x; }
LYRA_INLINE double to_compute(double x) { return x; }
LYRA_INLINE float to_compute(BFloat16 x) { return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }
LYRA_INLINE float to_compute(Half x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = x.bits & 0x7fffu;
  const uint32_t normal = (magnitude << 13) + 0x38000000u;
  const uint32_t special = (magnitude << 13) | 0x7f800000u;  // inf, NaN
  // Subnormals go through an integer, so that they survive denormals-are-zero.
  const uint32_t subnormal = bit_cast<uint32_t>(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
  const uint32_t value = magnitude >= 0x7c00u ? special : (magnitude < 0x0400u ? subnormal : normal);
  return bit_cast<float>(sign | value);
}

// A vector of bits of N bytes each, as many as a register of floats has lanes.
template <class Bits>
struct BitsType {
  typedef Bits type __attribute__((vector_size(kLanes<float> * sizeof(Bits))));
};
template <class Bits>
using BitsVec = typename BitsType<Bits>::type;

// Whole vectors by the same formulas: compilers take the scalar ones apart lane by lane.
LYRA_INLINE Vec<float> to_compute(BitsVec<uint16_t> bits, BFloat16) {
  return bit_cast<Vec<float>>(__builtin_convertvector(bits, BitsVec<uint32_t>) << 16);
}
LYRA_INLINE Vec<float> to_compute(BitsVec<uint16_t> bits, Half) {
  const BitsVec<uint32_t> wide = __builtin_convertvector(bits, BitsVec<uint32_t>), magnitude = wide & 0x7fffu;
  const Vec<float> count = __builtin_convertvector(bit_cast<BitsVec<int32_t>>(magnitude), Vec<float>);
  const BitsVec<uint32_t> subnormal = bit_cast<BitsVec<uint32_t>>(count * 0x1p-24f);
  const BitsVec<uint32_t> special = (magnitude << 13) | 0x7f800000u, normal = (magnitude << 13) + 0x38000000u;
  const BitsVec<uint32_t> value = magnitude >= 0x7c00u ? special : (magnitude < 0x0400u ? subnormal : normal);
  return bit_cast<Vec<float>>(((wide & 0x8000u) << 16) | value);
}
LYRA_INLINE BitsVec<uint16_t> from_compute(Vec<float> x, BFloat16) {
  const BitsVec<uint32_t> u = bit_cast<BitsVec<uint32_t>>(x), quiet = (u >> 16) | 0x0040u;
  const BitsVec<uint32_t> rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const BitsVec<uint32_t> value = (u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded;
  return __builtin_convertvector(value, BitsVec<uint16_t>);
}
LYRA_INLINE BitsVec<uint16_t> from_compute(Vec<float> x, Half) {
  const BitsVec<uint32_t> u = bit_cast<BitsVec<uint32_t>>(x), magnitude = u & 0x7fffffffu;
  const BitsVec<uint32_t> normal = (magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
  const BitsVec<uint32_t> subnormal = bit_cast<BitsVec<uint32_t>>(bit_cast<Vec<float>>(magnitude) + 0.5f) - 0x3f000000u;
  const BitsVec<uint32_t> finite = magnitude < 0x38800000u ? subnormal : normal;
  const BitsVec<uint32_t> infinite = BitsVec<uint32_t>{} + 0x7c00u, nan = BitsVec<uint32_t>{} + 0x7e00u;
  const BitsVec<uint32_t> value = magnitude > 0x7f800000u ? nan : (magnitude >= 0x477ff000u ? infinite : finite);
  return __builtin_convertvector(((u >> 16) & 0x8000u) | value, BitsVec<uint16_t>);
}

template <class S>
LYRA_INLINE S from_compute(Compute<S> x);
template <>
LYRA_INLINE float from_compute<float>(float x) {
  return x;
}
template <>
LYRA_INLINE double from_compute<double>(double x) {
  return x;
}
template <>
LYRA_INLINE BFloat16 from_compute<BFloat16>(float x) {  // round to nearest even; NaN stays NaN
  const uint32_t u = bit_cast<uint32_t>(x);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const uint32_t quiet = (u >> 16) | 0x0040u;
  return {static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded)};
}
template <>
LYRA_INLINE Half from_compute<Half>(float x) {  // round to nearest even; overflow to inf; NaN stays NaN
  const uint32_t u = bit_cast<uint32_t>(x);
  const uint32_t sign = (u >> 16) & 0x8000u;
  const uint32_t magnitude = u & 0x7fffffffu;
  const uint32_t normal = (magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
  // Below the smallest normal half: adding 0.5 leaves the rounded subnormal in the low bits of the mantissa.
  const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t value = magnitude > 0x7f800000u    ? 0x7e00u
                         : magnitude >= 0x477ff000u ? 0x7c00u
                         : magnitude < 0x38800000u  ? subnormal
                                                    : normal;
  return {static_cast<uint16_t>(sign | value)};
}

// ---- loads and stores ----------------------------------------------------------------------------------------
template <class T>
LYRA_INLINE Vec<T> splat(T x) {
  return x - Vec<T>{};  // x + 0 would be an addition: -0 + 0 is 0; x - 0 is x, whatever x
}
template <class T>
LYRA_INLINE Vec<T> load(const T* p) {
  Vec<T> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
LYRA_INLINE void store(T* p, Vec<T> v) {
  __builtin_memcpy(p, &v, sizeof v);
}
// Loads one register's worth of lanes from a storage type, converted to its compute type.
template <class S>
LYRA_INLINE Vec<Compute<S>> load_as(const S* p) {
  using T = Compute<S>;
  if constexpr (sizeof(S) == sizeof(T)) {
    return load(reinterpret_cast<const T*>(p));
  } else {
    BitsVec<uint16_t> bits;
    __builtin_memcpy(&bits, p, sizeof bits);
    return to_compute(bits, S{});
  }
}
template <class S>
LYRA_INLINE void store_as(S* p, Vec<Compute<S>> v) {
  using T = Compute<S>;
  if constexpr (sizeof(S) == sizeof(T)) {
    store(reinterpret_cast<T*>(p), v);
  } else {
    const BitsVec<uint16_t> bits = from_compute(v, S{});
    __builtin_memcpy(p, &bits, sizeof bits);
  }
}
// The first n lanes only (0 <= n <= lanes); the others read as zero and are not written.
template <class S>
LYRA_INLINE Vec<Compute<S>> load_first(const S* p, int n) {
  using T = Compute<S>;
  T lanes[kLanes<T>] = {};
  for (int i = 0; i < n; ++i) lanes[i] = to_compute(p[i]);
  return load(lanes);
}
template <class S>
LYRA_INLINE void store_first(S* p, Vec<Compute<S>> v, int n) {
  using T = Compute<S>;
  T lanes[kLanes<T>];
  store(lanes, v);
  for (int i = 0; i < n; ++i) p[i] = from_compute<S>(lanes[i]);
}
// The sum of all lanes, by halves: in registers, where an array of lanes would go through memory.
template <class V>
LYRA_INLINE auto sum_halves(V v) {
  using T = std::remove_reference_t<decltype(v[0])>;
  if constexpr (sizeof(V) == 2 * sizeof(T)) {
    return v[0] + v[1];
  } else {
    typedef T Half __attribute__((vector_size(sizeof(V) / 2)));
    struct Halves {
      Half low, high;
    };
    const Halves halves = bit_cast<Halves>(v);
    return sum_halves<Half>(halves.low + halves.high);
  }
}
template <class T>
LYRA_INLINE T sum_lanes(Vec<T> v) {
  return sum_halves<Vec<T>>(v);
}
// a where the mask's lane is true, else b; the mask comes from a comparison of two vectors.
template <class T, class Mask>
LYRA_INLINE Vec<T> select(Mask mask, Vec<T> a, Vec<T> b) {
  return mask ? a : b;
}

}  // namespace lyra::cpu::LYRA_ISA
