// The numbers that the scan multiplies with, for one direction and one group of channels (one vector's lanes).
//
// The scan advances by blocks of T = 8 tokens. With the state S before a block,
//   y_k = Re sum_n dec_k S + sum_{j <= k} local_{k-j} u_j,   dec_k = c~ a^k,          k = 0 .. 7
//   S'  = a^8 S + sum_j a^(7-j) u_j
// where c~ = c a and local_l = Re sum c a^l (+ D at 0) for y_t that sees u_t, and c~ = c, local_0 = 0 (+ D),
// local_l = Re sum c a^(l-1) for the reverse direction, which leaves the current token out.
//
// Powers are formed in double and rounded once. S' is computed as S + (q S + ...), q = a^8 - 1: the rounding of q is
// relative to |a^8 - 1|, not to 1, which is what keeps slow modes accurate. What it still loses in the eight blocks
// of a chunk is put back at the chunk's end with delta = a^64 - (1 + q)^8, formed from the rounded q.
#pragma once

#include "s4d_discretize.h"
#include "s4d_scan.h"

namespace lyra::cpu::LYRA_ISA {

constexpr int kBlock = 8;                                              // T
constexpr int kChunk = static_cast<int>(kScanChunk);
constexpr int kBlocks = kChunk / kBlock;

// Entries of a mode's table, each a (re, im) pair of vectors.
enum Entry : int {
  kPower = 0,               // a^1 .. a^7
  kDecode = kPower + 7,     // c~ a^0 .. c~ a^7
  kBlockStep = kDecode + 8, // a^8 - 1
  kDelta,
  kTokenStep,               // a - 1
  kEntries
};

// Sums behind the gradients of a mode's table, in the same form.
enum Sum : int {
  kPowerSum = 0,              // of a^1 .. a^7: the adjoint state after the block times u
  kDecodeSum = kPowerSum + 7, // of c~ a^0 .. 7: the state before the block times grad_y
  kBlockSum = kDecodeSum + 8, // of a^8: one state times the other
  kTokenSum,                  // of a, from the tokens that fill no block
  kSums
};

template <class T>
constexpr int kPair = 2 * kLanes<T>;  // scalars of a complex vector

// Table of one (direction, group): modes x kEntries pairs, then kBlock vectors of local_l.
template <class T>
constexpr int64_t table_size(int64_t modes) {
  return modes * kEntries * kPair<T> + kBlock * kLanes<T>;
}
// The same for sums: modes x kSums pairs, then kBlock vectors: sum of grad_y_{t+l} u_t.
template <class T>
constexpr int64_t sums_size(int64_t modes) {
  return modes * kSums * kPair<T> + kBlock * kLanes<T>;
}

template <class T>
Modes<T> modes_of(const S4dScanArgs& a, int64_t direction) {
  return {a.channels, a.modes, static_cast<const T*>(a.log_dt), static_cast<const T*>(a.log_A_real),
          static_cast<const T*>(a.A_imag), static_cast<const T*>(a.C) + direction * a.channels * a.modes * 2};
}

template <class T>
LYRA_INLINE void put(T* pair, int lane, Complex v) {
  for (int i = 0; i < kD; ++i) {
    pair[lane + i] = static_cast<T>(v.re[i]);
    pair[kLanes<T> + lane + i] = static_cast<T>(v.im[i]);
  }
}
template <class T>
LYRA_INLINE Complex get(const T* pair, int lane) {
  Complex v{};
  for (int i = 0; i < kD; ++i) {
    v.re[i] = static_cast<double>(pair[lane + i]);
    v.im[i] = static_cast<double>(pair[kLanes<T> + lane + i]);
  }
  return v;
}

// Without `blocks` only what single tokens need (c~, a - 1 and local_0): enough, and a quarter of a call less, where no
// sequence fills a block, as in generation token by token.
template <class T>
void build_table(const S4dScanArgs& args, int64_t direction, int64_t group, bool blocks, T* table) {
  const Modes<T> m = modes_of<T>(args, direction);
  T* local = table + m.modes * kEntries * kPair<T>;
  for (int lane = 0; lane < kLanes<T>; lane += kD) {
    const int64_t h = group * kLanes<T> + lane;
    VecD k[kBlock] = {};
    for (int64_t n = 0; n < m.modes; ++n) {
      const Pole p = discretize(m, h, n);
      T* entry = table + n * kEntries * kPair<T>;
      Complex power = p.a, decode = direction == 0 ? p.c * p.a : p.c;
      if (direction == 0) k[0] += p.c.re;
      put(entry + kTokenStep * kPair<T>, lane, p.a_m1);
      put(entry + kDecode * kPair<T>, lane, decode);
      if (!blocks) continue;
      for (int i = 1; i < kBlock; ++i) {
        put(entry + (kPower + i - 1) * kPair<T>, lane, power);
        put(entry + (kDecode + i - 1) * kPair<T>, lane, decode);
        k[i] += decode.re;
        power = power * p.a;
        decode = decode * p.a;
      }
      put(entry + (kDecode + kBlock - 1) * kPair<T>, lane, decode);
      const Complex step = doubled_m1(doubled_m1(doubled_m1(p.a_m1)));
      put(entry + kBlockStep * kPair<T>, lane, step);
      const Complex rounded = get(entry + kBlockStep * kPair<T>, lane);
      const Complex exact_chunk = doubled_m1(doubled_m1(doubled_m1(step)));
      const Complex rounded_chunk = doubled_m1(doubled_m1(doubled_m1(rounded)));
      put(entry + kDelta * kPair<T>, lane, exact_chunk - rounded_chunk);
    }
    if (direction == 0 && args.D) k[0] += gather(static_cast<const T*>(args.D), m, h, 1, 0);
    for (int i = 0; i < kBlock; ++i)
      for (int j = 0; j < kD; ++j) local[i * kLanes<T> + lane + j] = static_cast<T>(k[i][j]);
  }
}

// Where the gradients go, compute dtype; dlog_dt, dlog_A_real and dA_imag are added to (two directions share them).
template <class T>
struct ModeGradients {
  T *log_dt, *log_A_real, *A_imag, *C, *D;
};

// The chain rule from sums (double, of one direction and group) to the parameters.
template <class T>
void chain_table(const S4dScanArgs& args, int64_t direction, int64_t group, const double* sums,
                 const ModeGradients<T>& out) {
  const Modes<T> m = modes_of<T>(args, direction);
  const double* local = sums + m.modes * kSums * kPair<T>;
  for (int lane = 0; lane < kLanes<T>; lane += kD) {
    const int64_t h = group * kLanes<T> + lane;
    VecD dlog_dt{};
    for (int64_t n = 0; n < m.modes; ++n) {
      const Pole p = discretize(m, h, n);
      const double* sum = sums + n * kSums * kPair<T>;
      auto pair = [&](int entry) {
        Complex v{};
        for (int i = 0; i < kD; ++i) {
          v.re[i] = sum[entry * kPair<T> + lane + i];
          v.im[i] = sum[entry * kPair<T> + kLanes<T> + lane + i];
        }
        return v;
      };
      const Complex decode = direction == 0 ? p.c * p.a : p.c;
      Complex d_decode{}, d_a = pair(kTokenSum);  // of c~ and of a
      Complex power{splat(1.0), VecD{}};          // a^(i - 1)
      for (int i = 0; i < kBlock; ++i) {
        Complex d = pair(kDecodeSum + i);
        if (i + 1 < kBlock)
          for (int j = 0; j < kD; ++j) d.re[j] += local[(i + 1) * kLanes<T> + lane + j];
        const Complex scaled_d = d * decode;
        if (i == 0) {
          d_decode = d_decode + d;
        } else {
          d_a = d_a + (pair(kPowerSum + i - 1) + scaled_d) * power * splat<double>(i);
          power = power * p.a;
          d_decode = d_decode + d * power;
        }
      }
      d_a = d_a + pair(kBlockSum) * power * splat<double>(kBlock);
      Complex d_c = d_decode;
      if (direction == 0) {
        d_c = d_decode * p.a;
        for (int j = 0; j < kD; ++j) d_c.re[j] += local[lane + j];
        d_a = d_a + d_decode * p.c;
      }
      const ModeGradient g = chain(p, d_a, d_c);
      dlog_dt += g.log_dt;
      for (int j = 0; j < kD && h + j < m.channels; ++j) {
        const int64_t at = (h + j) * m.modes + n;
        out.log_A_real[at] += static_cast<T>(g.log_A_real[j]);
        out.A_imag[at] += static_cast<T>(g.A_imag[j]);
        out.C[2 * at] = static_cast<T>(g.C_re[j]);
        out.C[2 * at + 1] = static_cast<T>(g.C_im[j]);
      }
    }
    for (int j = 0; j < kD && h + j < m.channels; ++j) {
      out.log_dt[h + j] += static_cast<T>(dlog_dt[j]);
      if (out.D && direction == 0) out.D[h + j] = static_cast<T>(local[lane + j]);
    }
  }
}

}  // namespace lyra::cpu::LYRA_ISA
