// S4D's parameters to the numbers that the kernels use, and gradients back, in double precision.
//
// With dt = exp(log_dt), A = -exp(log_A_real) + i A_imag, z = dt A (zero-order hold; Gu et al. 2022):
//   a = exp(z),   c = 2 C (a - 1) / A = 2 C dt phi(z),   phi(z) = (exp(z) - 1) / z.
// Gradients are kept as complex D with dL = Re(D da), so that the chain rule is that of holomorphic functions:
// dL/dRe a = Re D, dL/dIm a = -Im D.
#pragma once

#include "types.cuh"

namespace lyra::cuda {

template <class R>
struct ModeParameters {
  int modes;
  const R* log_dt;      // (channels)
  const R* log_A_real;  // (channels, modes)
  const R* A_imag;      // (channels, modes)
  const R* C;           // (directions, channels, modes, 2)
};

__device__ inline float exp_of(float x) { return expf(x); }
__device__ inline double exp_of(double x) { return exp(x); }
// sin and cos of pi x. Unlike sin and cos they need no table in memory to reduce a large argument.
__device__ inline Complex<float> cis_pi(float x) {
  Complex<float> y;
  sincospif(x, &y.im, &y.re);
  return y;
}
__device__ inline Complex<double> cis_pi(double x) {
  Complex<double> y;
  sincospi(x, &y.im, &y.re);
  return y;
}

constexpr double kInversePi = 0.318309886183790671538;

// The exponent z = dt A: real part, and imaginary part in half turns.
struct alignas(16) Exponent {
  double decay, turns;
};
__device__ inline Exponent load_exponent(const Exponent* p) {
  const Complex<double> z = load_complex<double>(p);
  return {z.re, z.im};
}
__device__ inline void store_exponent(Exponent* p, Exponent z) { store_complex(p, Complex<double>{z.decay, z.turns}); }

// a^steps: the phase is reduced in double, so that it stays exact however many steps; the rest is in R.
template <class R>
__device__ inline Complex<R> power(Exponent z, double steps) {
  double turns = z.turns * steps;
  turns -= 2 * rint(turns * 0.5);
  return exp_of(static_cast<R>(z.decay * steps)) * cis_pi(static_cast<R>(turns));
}

template <class R>
__device__ inline Exponent exponent_of(const ModeParameters<R>& p, int64_t h, int n) {
  const double dt = exp(static_cast<double>(p.log_dt[h]));
  const int64_t i = h * p.modes + n;
  return {-dt * exp(static_cast<double>(p.log_A_real[i])), dt * p.A_imag[i] * kInversePi};
}

struct Pole {
  double dt, decay;            // exp(log_dt), exp(log_A_real)
  Complex<double> z, a, phi;
};

__device__ inline Complex<double> divide(Complex<double> x, Complex<double> y) {
  const double inverse = 1.0 / (y.re * y.re + y.im * y.im);
  return {(x.re * y.re + x.im * y.im) * inverse, (x.im * y.re - x.re * y.im) * inverse};
}

template <class R>
__device__ inline Pole discretize(const ModeParameters<R>& p, int64_t h, int n) {
  Pole q;
  const int64_t i = h * p.modes + n;
  q.dt = exp(static_cast<double>(p.log_dt[h]));
  q.decay = exp(static_cast<double>(p.log_A_real[i]));
  q.z = {-q.dt * q.decay, q.dt * p.A_imag[i]};
  // a - 1 = expm1(x) cos y + (cos y - 1) + i e^x sin y keeps the digits that subtracting 1 from a would lose.
  const Complex<double> half = cis_pi(q.z.im * (0.5 * kInversePi));
  const double growth = exp(q.z.re), cos_minus_1 = -2 * half.im * half.im, sine = 2 * half.im * half.re;
  const Complex<double> a_minus_1{expm1(q.z.re) + growth * cos_minus_1, growth * sine};
  q.a = {growth * (1 + cos_minus_1), growth * sine};
  const bool tiny = q.z.re * q.z.re + q.z.im * q.z.im < 1e-200;
  q.phi = tiny ? Complex<double>{1, 0} : divide(a_minus_1, q.z);
  return q;
}

// C as given, for direction d of `channels` channels.
template <class R>
__device__ inline Complex<double> weight_of(const ModeParameters<R>& p, int64_t channels, int d, int64_t h, int n) {
  const Complex<R> w = load_complex<R>(p.C + ((d * channels + h) * p.modes + n) * 2);
  return {static_cast<double>(w.re), static_cast<double>(w.im)};
}

// dphi/dz = (exp(z) - phi(z)) / z, by its series sum (k + 1) z^k / (k + 2)! where that difference cancels.
__device__ inline Complex<double> phi_derivative(const Pole& q) {
  if (q.z.re * q.z.re + q.z.im * q.z.im >= 0.25) return divide(q.a - q.phi, q.z);
  constexpr int kTerms = 14;
  double coefficient = 1;  // 1 / (k + 2)!
  for (int k = 0; k < kTerms; ++k) coefficient *= 1.0 / (k + 2);
  Complex<double> sum{coefficient * kTerms, 0};
  for (int k = kTerms - 2; k >= 0; --k) {
    coefficient *= k + 3;
    sum = sum * q.z;
    sum.re += coefficient * (k + 1);
  }
  return sum;
}

}  // namespace lyra::cuda
