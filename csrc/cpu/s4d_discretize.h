// S4D's parameters to the numbers that the kernels use, and gradients back, in double precision.
//
// With dt = exp(log_dt), A = -exp(log_A_real) + i A_imag, z = dt A (zero-order hold; Gu et al. 2022):
//   a = exp(z),   c = 2 C (a - 1) / A = 2 C dt phi(z),   phi(z) = (exp(z) - 1) / z.
// The form with phi stays exact where z is small. Gradients are kept as complex D with dL = Re(D da), so that the
// chain rule is that of holomorphic functions: dL/dRe a = Re D, dL/dIm a = -Im D.
#pragma once

#include "double_math.h"

namespace lyra::cpu::LYRA_ISA {

// Parameters as they come, T being the compute dtype. Channels beyond `channels` read as modes that do nothing.
template <class T>
struct Modes {
  int64_t channels, modes;
  const T* log_dt;      // (channels)
  const T* log_A_real;  // (channels, modes)
  const T* A_imag;      // (channels, modes)
  const T* C;           // (channels, modes, 2)
};

struct Pole {
  VecD dt, decay;      // exp(log_dt), exp(log_A_real)
  Complex C, z, phi;
  Complex a, a_m1, c;  // exp(z), exp(z) - 1, 2 C dt phi
};

// Channel h (the index of the vector's lane i is h + i) and mode n; the padding where h + i >= channels.
template <class T>
VecD gather(const T* p, const Modes<T>& m, int64_t h, int64_t stride, int64_t offset) {
  VecD v{};
  for (int i = 0; i < kD; ++i)
    if (h + i < m.channels) v[i] = static_cast<double>(p[(h + i) * stride + offset]);
  return v;
}

inline Complex phi_of(Complex z, Complex a_m1) {
  const VecD norm = z.re * z.re + z.im * z.im;
  return select_complex(norm < 1e-200, Complex{splat(1.0), VecD{}}, a_m1 / z);
}

// dphi/dz = (exp(z) - phi(z)) / z, by its series sum (k + 1) z^k / (k + 2)! where that difference cancels.
inline Complex dphi_of(Complex z, Complex a, Complex phi) {
  double term = 1.0;
  double coefficients[14];
  for (int k = 0; k < 14; ++k) {
    term /= k + 2;
    coefficients[k] = term * (k + 1);
  }
  Complex series{splat(coefficients[13]), VecD{}};
  for (int k = 12; k >= 0; --k) {
    series = series * z;
    series.re += coefficients[k];
  }
  const VecD norm = z.re * z.re + z.im * z.im;
  return select_complex(norm < 0.25, series, (a - phi) / z);
}

template <class T>
Pole discretize(const Modes<T>& m, int64_t h, int64_t n) {
  Pole p;
  p.dt = exp_and_expm1(gather(m.log_dt, m, h, 1, 0)).exp;
  p.decay = exp_and_expm1(gather(m.log_A_real, m, h, m.modes, n)).exp;
  p.C = {gather(m.C, m, h, 2 * m.modes, 2 * n), gather(m.C, m, h, 2 * m.modes, 2 * n + 1)};
  p.z = {-p.dt * p.decay, p.dt * gather(m.A_imag, m, h, m.modes, n)};
  const ExpResult e = exp_and_expm1(p.z.re);
  const SinCos half = sincos(p.z.im * 0.5);
  const VecD cos_m1 = -2.0 * half.sin * half.sin, sin = 2.0 * half.sin * half.cos;
  p.a_m1 = {e.expm1 + e.exp * cos_m1, e.exp * sin};
  p.a = {p.a_m1.re + 1.0, p.a_m1.im};
  // Where a is small, 1 + (a - 1) has lost digits.
  p.a.re = select<double>(p.z.re < -0.5, e.exp * (cos_m1 + 1.0), p.a.re);
  p.phi = phi_of(p.z, p.a_m1);
  p.c = p.C * p.phi * (p.dt * 2.0);
  return p;
}

struct ModeGradient {
  VecD log_dt;  // this mode's share
  VecD log_A_real, A_imag, C_re, C_im;
};

// d_log_a is d_a times a.
inline ModeGradient chain_log(const Pole& p, Complex d_log_a, Complex d_c) {
  const Complex two_C_dt = p.C * (p.dt * 2.0);
  const Complex d_z = d_log_a + d_c * two_C_dt * dphi_of(p.z, p.a, p.phi);
  const Complex d_C = d_c * p.phi * (p.dt * 2.0);
  const Complex dz_z = d_z * p.z, dc_c = d_c * p.c;
  ModeGradient g;
  g.log_dt = dz_z.re + dc_c.re;
  g.log_A_real = -d_z.re * p.dt * p.decay;
  g.A_imag = -d_z.im * p.dt;
  g.C_re = d_C.re;
  g.C_im = -d_C.im;
  return g;
}
inline ModeGradient chain(const Pole& p, Complex d_a, Complex d_c) { return chain_log(p, d_a * p.a, d_c); }

}  // namespace lyra::cpu::LYRA_ISA
