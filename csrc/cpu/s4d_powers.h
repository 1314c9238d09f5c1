// Powers of the poles for s4d_kernel: a^l split into a^(64 b) a^k, each table formed by multiplications in double.
#pragma once

#include "memory.h"
#include "s4d_discretize.h"
#include "s4d_kernel.h"
#include "threads.h"

namespace lyra::cpu::LYRA_ISA {

constexpr int64_t kTaps = 64;                      // taps of a block
constexpr int64_t kRangeBlocks = 64;               // blocks of a range, whose gradients fill half of L1
constexpr int64_t kRange = kTaps * kRangeBlocks;   // taps between two fresh tables of a^(64 b)
constexpr int64_t kSegment = 16 * kRange;          // taps of a work item

inline int64_t padded_modes(int64_t modes) { return (modes + kD - 1) / kD * kD; }

// The poles of every channel, (channels, 4, padded modes): re and im of a, re and im of c. Padding is zero.
class Poles {
 public:
  template <class T>
  Poles(const Modes<T>& m, const Threads& threads)
      : padded_(padded_modes(m.modes)), data_(m.channels * 4 * padded_, 0.0) {
    for_ranges<Denormals::flush>(threads, (m.channels + kD - 1) / kD, [&](int64_t begin, int64_t end) {
      for (int64_t h = begin * kD; h < end * kD; h += kD)
        for (int64_t n = 0; n < m.modes; ++n) {
          const Pole p = discretize(m, h, n);
          for (int i = 0; i < kD && h + i < m.channels; ++i) {
            double* out = data_ + (h + i) * 4 * padded_ + n;
            out[0] = p.a.re[i];
            out[padded_] = p.a.im[i];
            out[2 * padded_] = p.c.re[i];
            out[3 * padded_] = p.c.im[i];
          }
        }
    });
  }
  Complex a(int64_t h, int64_t n) const { return at(h, n, 0); }
  Complex c(int64_t h, int64_t n) const { return at(h, n, 2); }

 private:
  Complex at(int64_t h, int64_t n, int64_t what) const {
    const double* p = data_ + (h * 4 + what) * padded_ + n;
    return {load(p), load(p + padded_)};
  }

  int64_t padded_;
  Buffer<double> data_;
};

inline Complex power(Complex a, int64_t exponent) {
  Complex result{splat(1.0), VecD{}};
  for (; exponent > 0; exponent >>= 1) {
    if (exponent & 1) result = result * a;
    a = a * a;
  }
  return result;
}

// a^k for k < 64 of each of the channel's modes, in double: (modes, 2, kTaps).
inline void powers_of_taps(const Poles& poles, int64_t h, int64_t modes, double* table) {
  for (int64_t n0 = 0; n0 < modes; n0 += kD) {
    const Complex all = poles.a(h, n0);
    for (int i = 0; i < kD && n0 + i < modes; ++i) {
      Complex square{splat(all.re[i]), splat(all.im[i])}, value{splat(1.0), VecD{}};
      // Lane j becomes a^j from the squarings that j's bits name; then a^kD carries all lanes on.
      for (int bit = 1; bit < kD; bit *= 2) {
        VecI chosen{};
        for (int j = 0; j < kD; ++j) chosen[j] = j & bit ? -1 : 0;
        value = select_complex(chosen, value * square, value);
        square = square * square;
      }
      double* out = table + (n0 + i) * 2 * kTaps;
      for (int64_t k = 0; k < kTaps; k += kD) {
        store(out + k, value.re);
        store(out + kTaps + k, value.im);
        value = value * square;
      }
    }
  }
}

}  // namespace lyra::cpu::LYRA_ISA
