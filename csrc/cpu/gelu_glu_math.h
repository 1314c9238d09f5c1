// GELU and the logistic function on vectors of floats or doubles, good to about two units in the last place of 1.
//
// With t = |x| and phi the normal density, the normal distribution function is
//   Phi(-t) = exp(-t^2/2) G(q(t)),  q = (t - k) / (t + k),
// where G is smooth on q in [-1, 1): one polynomial serves every t, and the same exponential gives phi(x) for the
// derivative. Polynomials: mpmath.chebyfit of erfc(t/sqrt 2)/2 exp(t^2/2) over q, and of (exp(r)-1-r)/r^2.
#pragma once

#include <cstdint>

#include "simd.h"

namespace lyra::cpu::LYRA_ISA {

// kTailEnd: where exp(-t^2/2) is about to leave the normal numbers.
template <class T>
struct MathConstants;
template <>
struct MathConstants<float> {
  using Bits = int32_t;
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr float kMagic = 0x1.8p23f;  // adding it leaves the nearest integer in the low bits
  static constexpr float kLowest = -87.0f, kHighest = 88.0f;  // the normal numbers end there
  static constexpr float kLn2High = 0x1.62e4p-1f, kLn2Low = 0x1.7f7d1cp-20f;
  static constexpr float kExp[] = {1.392625083e-3f, 8.363232884e-3f, 4.166655421e-2f, 1.666657667e-1f, 0.5f};
  static constexpr float kTailCentre = 3.0f, kTailEnd = 13.19f;
  static constexpr float kTail[] = {5.415193896e-05f, 1.162496159e-04f,  -3.396745735e-04f, -9.84372195e-04f,
                                    2.904479037e-03f, 6.132236287e-03f,  -4.621325403e-02f, 1.232250162e-01f,
                                    -2.064026219e-01f, 1.215139478e-01f};
};
template <>
struct MathConstants<double> {
  using Bits = int64_t;
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr double kMagic = 0x1.8p52;
  static constexpr double kLowest = -708.0, kHighest = 709.0;
  static constexpr double kLn2High = 0x1.62e42feep-1, kLn2Low = 0x1.a39ef35793c76p-33;
  static constexpr double kExp[] = {1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0,
                                    1.0 / 362880.0,     1.0 / 40320.0,     1.0 / 5040.0,     1.0 / 720.0,
                                    1.0 / 120.0,        1.0 / 24.0,        1.0 / 6.0,        0.5};
  static constexpr double kTailCentre = 5.0, kTailEnd = 37.6;
  static constexpr double kTail[] = {
      1.5354210928418546e-09,  4.050532282513639e-09,   -1.1293299749381937e-08, -3.71760213315866e-08,
      7.794678287203725e-08,   2.4201522382351585e-07,  -6.758072227056798e-07,  -1.269542505458445e-06,
      6.644754809817131e-06,   9.611754873296433e-07,   -6.04275711509672e-05,   0.00013427686243864853,
      0.00021955075111949754,  -0.0023788443582171788,  0.00899137054947947,     -0.02341390048763824,
      0.04785535228421185,     -0.08088387726412762,    0.1160688118860028,      -0.143457555264012,
      0.07691930497500629};
};

template <class T, int n>
LYRA_INLINE Vec<T> horner(const T (&coefficients)[n], Vec<T> x) {
  Vec<T> p = splat(coefficients[0]);
#pragma GCC unroll 32
  for (int i = 1; i < n; ++i) p = p * x + coefficients[i];
  return p;
}

// exp(x) for x from kLowest to kHighest, or NaN.
template <class T>
LYRA_INLINE Vec<T> exp(Vec<T> x) {
  using M = MathConstants<T>;
  typedef typename M::Bits Bits __attribute__((vector_size(kVectorBytes)));
  const Vec<T> shifted = x * T(1.4426950408889634) + M::kMagic;
  const Vec<T> k = shifted - M::kMagic;
  const Vec<T> r = (x - k * M::kLn2High) - k * M::kLn2Low;
  const Vec<T> p = horner(M::kExp, r) * r * r + r;
  const Vec<T> scale = bit_cast<Vec<T>>((bit_cast<Bits>(shifted) + M::kBias) << M::kMantissa);
  return scale * p + scale;
}

template <class T>
LYRA_INLINE Vec<T> sigmoid(Vec<T> x) {
  using M = MathConstants<T>;
  x = select<T>(x < -M::kHighest, splat(-M::kHighest), x);
  x = select<T>(x > -M::kLowest, splat(-M::kLowest), x);
  return T(1) / (T(1) + exp<T>(-x));
}

// Phi(x) and phi(x) of the normal distribution: gelu(x) = x Phi(x), gelu'(x) = Phi(x) + x phi(x).
template <class T>
struct Normal {
  Vec<T> distribution, density;
};
template <class T>
LYRA_INLINE Normal<T> normal(Vec<T> x) {
  using M = MathConstants<T>;
  const Vec<T> zero{};
  const Vec<T> magnitude = select<T>(x < zero, -x, x);
  const auto beyond = magnitude > M::kTailEnd;
  const Vec<T> t = select<T>(beyond, splat(M::kTailEnd), magnitude);
  const Vec<T> q = T(1) - T(2) * M::kTailCentre / (t + M::kTailCentre);
  const Vec<T> e = exp<T>(t * t * T(-0.5));
  // Exactly zero beyond the end, so that infinities give what the formula gives: inf, and NaN on the left.
  const Vec<T> tail = select<T>(beyond, zero, e * horner(M::kTail, q));
  return {select<T>(x > zero, T(1) - tail, tail), e * T(0.3989422804014327)};
}

}  // namespace lyra::cpu::LYRA_ISA
