// Double-precision vectors, and complex numbers of them: for the O(channels x modes) tables of S4D.
//
// The tables need exp and sincos of a few thousand arguments a call; libm would cost more than the scan of a short
// sequence. The series below are Taylor polynomials after range reduction, good to about one unit in the last place.
#pragma once

#include <cmath>
#include <cstdint>

#include "simd.h"

namespace lyra::cpu::LYRA_ISA {

using VecD = Vec<double>;
constexpr int kD = kLanes<double>;
typedef int64_t VecI __attribute__((vector_size(kVectorBytes)));

LYRA_INLINE VecI bits_of(VecD x) { return bit_cast<VecI>(x); }

constexpr double kRoundingMagic = 0x1.8p52;  // adding it leaves the nearest integer in the low bits

struct ExpResult {
  VecD exp, expm1;
};

// exp(x) and exp(x) - 1, both to full relative accuracy.
inline ExpResult exp_and_expm1(VecD x) {
  x = select<double>(x < -708.0, splat(-708.0), x);
  x = select<double>(x > 709.0, splat(709.0), x);
  const VecD shifted = x * 0x1.71547652b82fep+0 + kRoundingMagic;
  const VecD k = shifted - kRoundingMagic;
  const VecD r = (x - k * 0x1.62e42feep-1) - k * 0x1.a39ef35793c76p-33;
  VecD p = splat(1.0 / 6227020800.0);
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r * r + r;
  const VecD scale = bit_cast<VecD>((bits_of(shifted) + 1023) << 52);
  return {scale * p + scale, scale * p + (scale - 1.0)};
}

struct SinCos {
  VecD sin, cos;
};

inline SinCos sincos(VecD x) {
  constexpr double kLargest = 0x1p19;  // beyond, the reduction by three parts of pi/2 loses digits
  const VecD shifted = x * 0x1.45f306dc9c883p-1 + kRoundingMagic;
  const VecD k = shifted - kRoundingMagic;
  const VecD r = ((x - k * 0x1.921fb544p+0) - k * 0x1.0b4611a6p-34) - k * 0x1.3198a2e037073p-69;
  const VecD r2 = r * r;
  VecD s = splat(1.0 / 355687428096000.0);
  s = s * r2 - 1.0 / 1307674368000.0;
  s = s * r2 + 1.0 / 6227020800.0;
  s = s * r2 - 1.0 / 39916800.0;
  s = s * r2 + 1.0 / 362880.0;
  s = s * r2 - 1.0 / 5040.0;
  s = s * r2 + 1.0 / 120.0;
  s = s * r2 - 1.0 / 6.0;
  s = s * r2 * r + r;
  VecD c = splat(1.0 / 20922789888000.0);
  c = c * r2 - 1.0 / 87178291200.0;
  c = c * r2 + 1.0 / 479001600.0;
  c = c * r2 - 1.0 / 3628800.0;
  c = c * r2 + 1.0 / 40320.0;
  c = c * r2 - 1.0 / 720.0;
  c = c * r2 + 1.0 / 24.0;
  c = c * r2 - 0.5;
  c = c * r2 + 1.0;
  const VecI quadrant = bits_of(shifted);
  const VecI swap = (quadrant & 1) != 0;
  const VecI sin_sign = (quadrant & 2) << 62, cos_sign = ((quadrant + 1) & 2) << 62;
  SinCos result;
  result.sin = bit_cast<VecD>(bits_of(select<double>(swap, c, s)) ^ sin_sign);
  result.cos = bit_cast<VecD>(bits_of(select<double>(swap, s, c)) ^ cos_sign);
  for (int i = 0; i < kD; ++i) {
    if (!(x[i] < kLargest && x[i] > -kLargest)) {
      result.sin[i] = std::sin(x[i]);
      result.cos[i] = std::cos(x[i]);
    }
  }
  return result;
}

// Complex numbers of vectors.
struct Complex {
  VecD re, im;
};
LYRA_INLINE Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
LYRA_INLINE Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
LYRA_INLINE Complex operator*(Complex a, Complex b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
LYRA_INLINE Complex operator*(Complex a, VecD b) { return {a.re * b, a.im * b}; }
LYRA_INLINE Complex operator/(Complex a, Complex b) {
  const VecD norm = b.re * b.re + b.im * b.im;
  return {(a.re * b.re + a.im * b.im) / norm, (a.im * b.re - a.re * b.im) / norm};
}
LYRA_INLINE Complex select_complex(VecI mask, Complex a, Complex b) {
  return {select<double>(mask, a.re, b.re), select<double>(mask, a.im, b.im)};
}
// From e = w - 1 to w^2 - 1, without losing the digits of a small e.
LYRA_INLINE Complex doubled_m1(Complex e) { return e * Complex{e.re + 2.0, e.im}; }

}  // namespace lyra::cpu::LYRA_ISA
