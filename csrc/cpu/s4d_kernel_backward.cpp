// Backward of the kernel generation. With g = dL/dK and the convention dL = Re(D da) of s4d_discretize.h,
//   D_c = sum_l g_l a^l,     a D_a = c sum_l l g_l a^l,
// and with l = 64 b + k, z_b = a^(64 b): both come from the products over the blocks of a range
//   X_k = sum_b z_b g[b, k],   Y_k = sum_b b z_b g[b, k]:   sum_l g_l a^l = sum_k a^k X_k,
//   sum_l l g_l a^l = sum_k a^k ((l0 + k) X_k + 64 Y_k),
// 4 multiply-adds per tap and mode, summed in the compute dtype over the 64 blocks of a range and in double beyond.
#include "s4d_powers.h"

namespace lyra::cpu::LYRA_ISA {
namespace {

constexpr int kVectors = kVectorBytes == 64 ? 4 : 2;

// a^(64 b) and b a^(64 b) for the blocks of a range, (blocks, 4, padded).
template <class T>
void steps_of_blocks(const Poles& poles, int64_t h, int64_t modes, int64_t first_tap, int64_t blocks, T* table) {
  const int64_t padded = padded_modes(modes);
  for (int64_t n = 0; n < modes; n += kD) {
    const Complex step = power(poles.a(h, n), kTaps);
    Complex value = power(poles.a(h, n), first_tap);
    for (int64_t b = 0; b < blocks; ++b) {
      T* out = table + b * 4 * padded + n;
      for (int i = 0; i < kD; ++i) {
        out[i] = static_cast<T>(value.re[i]);
        out[padded + i] = static_cast<T>(value.im[i]);
        out[2 * padded + i] = static_cast<T>(static_cast<double>(b) * value.re[i]);
        out[3 * padded + i] = static_cast<T>(static_cast<double>(b) * value.im[i]);
      }
      value = value * step;
    }
  }
}

// sums[0..3][k] = re X, im X, re Y, im Y of one mode for all 64 taps.
template <class T>
void sum_blocks(const T* steps, int64_t padded, const T* grad, int64_t blocks, T* sums) {
  constexpr int W = kLanes<T>;
  for (int64_t k = 0; k < kTaps; k += W * kVectors) {
    Vec<T> acc[4][kVectors] = {};
    for (int64_t b = 0; b < blocks; ++b) {
      const T* z = steps + b * 4 * padded;
      Vec<T> g[kVectors];
      for (int v = 0; v < kVectors; ++v) g[v] = load(grad + b * kTaps + k + v * W);
      for (int q = 0; q < 4; ++q)
        for (int v = 0; v < kVectors; ++v) acc[q][v] += g[v] * z[q * padded];
    }
    for (int q = 0; q < 4; ++q)
      for (int v = 0; v < kVectors; ++v) store(sums + q * kTaps + k + v * W, acc[q][v]);
  }
}

struct Moments {
  double re, im, l_re, l_im;  // sum g a^l, sum l g a^l
};

template <class T>
VecD load_double(const T* p) {
  VecD v;
  for (int i = 0; i < kD; ++i) v[i] = static_cast<double>(p[i]);
  return v;
}

// Adds one mode's range to its moments; powers is the mode's (2, kTaps).
template <class T>
void contract(const T* sums, const double* powers, double first_tap, Moments& m) {
  VecD tap;
  for (int i = 0; i < kD; ++i) tap[i] = first_tap + i;
  Complex plain{}, weighted{};
  for (int64_t k = 0; k < kTaps; k += kD, tap += kD) {
    const Complex a{load(powers + k), load(powers + kTaps + k)};
    const Complex x{load_double(sums + k), load_double(sums + kTaps + k)};
    const Complex y{load_double(sums + 2 * kTaps + k), load_double(sums + 3 * kTaps + k)};
    plain = plain + a * x;
    weighted = weighted + a * (x * tap + y * splat<double>(kTaps));
  }
  m.re += sum_lanes<double>(plain.re);
  m.im += sum_lanes<double>(plain.im);
  m.l_re += sum_lanes<double>(weighted.re);
  m.l_im += sum_lanes<double>(weighted.im);
}

// From the moments (channels, segments, modes) to the parameters.
template <class T>
void chain_channels(const S4dKernelBackwardArgs& b, const Modes<T>& m, int64_t segments, const Moments* moments,
                    int64_t h) {
  VecD dlog_dt{};
  for (int64_t n = 0; n < m.modes; ++n) {
    Complex plain{}, weighted{};
    for (int i = 0; i < kD && h + i < m.channels; ++i)
      for (int64_t s = 0; s < segments; ++s) {
        const Moments& x = moments[((h + i) * segments + s) * m.modes + n];
        plain.re[i] += x.re;
        plain.im[i] += x.im;
        weighted.re[i] += x.l_re;
        weighted.im[i] += x.l_im;
      }
    const Pole p = discretize(m, h, n);
    const ModeGradient g = chain_log(p, p.c * weighted, plain);
    dlog_dt += g.log_dt;
    for (int i = 0; i < kD && h + i < m.channels; ++i) {
      const int64_t at = (h + i) * m.modes + n;
      static_cast<T*>(b.dlog_A_real)[at] = static_cast<T>(g.log_A_real[i]);
      static_cast<T*>(b.dA_imag)[at] = static_cast<T>(g.A_imag[i]);
      static_cast<T*>(b.dC)[2 * at] = static_cast<T>(g.C_re[i]);
      static_cast<T*>(b.dC)[2 * at + 1] = static_cast<T>(g.C_im[i]);
    }
  }
  for (int i = 0; i < kD && h + i < m.channels; ++i)
    static_cast<T*>(b.dlog_dt)[h + i] = static_cast<T>(dlog_dt[i]);
}

template <class T>
void backward(const S4dKernelBackwardArgs& b, const Threads& threads) {
  const S4dKernelArgs& a = b.forward;
  const Modes<T> m{a.channels, a.modes, static_cast<const T*>(a.log_dt), static_cast<const T*>(a.log_A_real),
                   static_cast<const T*>(a.A_imag), static_cast<const T*>(a.C)};
  const Poles poles(m, threads);
  const int64_t segments = (a.length + kSegment - 1) / kSegment;
  Buffer<Moments> moments(a.channels * segments * a.modes);
  for_ranges<Denormals::flush>(threads, a.channels * segments, [&](int64_t begin, int64_t end) {
    const int64_t padded = padded_modes(a.modes);
    Buffer<double> powers(a.modes * 2 * kTaps);
    Buffer<T> steps(kRangeBlocks * 4 * padded), sums(4 * kTaps), grad(kRange);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t h = item / segments, segment = item % segments;
      if (item == begin || segment == 0) powers_of_taps(poles, h, a.modes, powers);
      Moments* out = moments + item * a.modes;
      for (int64_t n = 0; n < a.modes; ++n) out[n] = {0.0, 0.0, 0.0, 0.0};
      const T* row = static_cast<const T*>(b.grad) + h * a.length;
      const int64_t last = (segment + 1) * kSegment < a.length ? (segment + 1) * kSegment : a.length;
      for (int64_t l = segment * kSegment; l < last; l += kRange) {
        const int64_t taps = last - l < kRange ? last - l : kRange;
        const int64_t blocks = (taps + kTaps - 1) / kTaps;
        for (int64_t i = 0; i < blocks * kTaps; ++i) grad[i] = i < taps ? row[l + i] : T(0);
        steps_of_blocks<T>(poles, h, a.modes, l, blocks, steps);
        for (int64_t n = 0; n < a.modes; ++n) {
          sum_blocks<T>(steps + n, padded, grad, blocks, sums);
          contract<T>(sums, powers + n * 2 * kTaps, static_cast<double>(l), out[n]);
        }
      }
    }
  });
  for_ranges<Denormals::flush>(threads, (a.channels + kD - 1) / kD, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) chain_channels<T>(b, m, segments, moments, group * kD);
  });
}

}  // namespace

void s4d_kernel_backward(const S4dKernelBackwardArgs& args, const Threads& threads) {
  with_compute_type(args.forward.dtype, [&](auto* p) { backward<Pointee<decltype(p)>>(args, threads); });
}

}  // namespace lyra::cpu::LYRA_ISA
