// From the gradients of a and c to those of the parameters.
#pragma once

#include "s4d_modes.cuh"
#include "reduce.cuh"

namespace lyra::cuda {

template <class R>
struct ModeGradients {
  R* log_dt;
  R* log_A_real;
  R* A_imag;
  R* C;
};

constexpr int kChainWarps = 4;

template <class R>
__device__ inline Complex<double> gradient_at(const R* p) {
  const Complex<R> z = load_complex<R>(p);
  return {static_cast<double>(z.re), static_cast<double>(z.im)};
}

// sums (directions, channels, modes, 4): per direction and mode the gradient of c and the gradient of z through a, the
// latter still to be multiplied by c where TIMES_C. A warp per channel.
template <class R, bool TIMES_C>
__global__ void __launch_bounds__(kWarp* kChainWarps)
    s4d_chain_rule(const R* __restrict__ sums, ModeParameters<R> p, int directions, int64_t channels,
                   ModeGradients<R> out) {
  const int lane = threadIdx.x % kWarp;
  const int64_t h = static_cast<int64_t>(blockIdx.x) * kChainWarps + threadIdx.x / kWarp;
  if (h >= channels) return;  // the whole warp
  double dlog_dt = 0;
  for (int n = lane; n < p.modes; n += kWarp) {
    const Pole q = discretize(p, h, n);
    const Complex<double> through_phi = phi_derivative(q);
    Complex<double> dz{0, 0};
    for (int d = 0; d < directions; ++d) {
      const int64_t i = (d * channels + h) * p.modes + n;
      const Complex<double> C = weight_of(p, channels, d, h, n), scaled = 2 * q.dt * C;
      const Complex<double> c = scaled * q.phi;
      const Complex<double> dc = gradient_at(sums + 4 * i), through_a = gradient_at(sums + 4 * i + 2);
      const Complex<double> dC = 2 * q.dt * (dc * q.phi);
      dz = dz + (TIMES_C ? through_a * c : through_a) + dc * scaled * through_phi;
      dlog_dt += (dc * c).re;
      store_complex(out.C + 2 * i, Complex<R>{static_cast<R>(dC.re), static_cast<R>(-dC.im)});
    }
    dlog_dt += (dz * q.z).re;
    out.log_A_real[h * p.modes + n] = static_cast<R>(-dz.re * q.dt * q.decay);
    out.A_imag[h * p.modes + n] = static_cast<R>(-dz.im * q.dt);
  }
  dlog_dt = group_sum(dlog_dt, kWarp);
  if (lane == 0) out.log_dt[h] = static_cast<R>(dlog_dt);
}

template <class R, bool TIMES_C>
void apply_chain_rule(const R* sums, const ModeParameters<R>& p, int directions, int64_t channels,
                      const ModeGradients<R>& out, Stream stream) {
  launch("s4d_chain_rule", s4d_chain_rule<R, TIMES_C>, (channels + kChainWarps - 1) / kChainWarps,
         kWarp * kChainWarps, 0, stream, sums, p, directions, channels, out);
}

}  // namespace lyra::cuda
