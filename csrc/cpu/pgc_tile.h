// What the forward and the backward of a PGC block share: its parameters, packed, and its first half on one tile.
#pragma once

#include "gated_conv_tile.h"
#include "linear.h"
#include "pgc.h"

namespace lyra::cpu::LYRA_ISA {

template <class T>
struct Pgc {
  Linear<T> in, out;
  GatedConv<T> gate;
  Buffer<T> out_norm;  // (out.width()), zeros in the padding
  bool out_normalised;

  Pgc(const PgcArgs& a, bool backward, const bf16::Products* products)
      : in(a.in_weight, a.in_bias, 2, a.channels, a.in, backward, products),
        out(a.out_weight, a.out_bias, 1, a.out, a.channels, backward, products),
        gate(a.channels, a.width, a.causal, a.eps, a.conv_weight, a.conv_bias, a.in_norm_weight),
        out_norm(out.width(), T(0)),
        out_normalised(a.out_norm_weight != nullptr) {
    if (out_normalised) copy<T>(static_cast<const T*>(a.out_norm_weight), a.out, out_norm);
  }
};

// Rows of n = r (W_in u + b_in) for a window of tokens, zeros outside the sequence; u points at the sequence.
template <class S, class T>
LYRA_INLINE void project_window(const Pgc<T>& p, const S* u, const Window& w, T* u_tile, T* n, int64_t stride, T* r) {
  zero<T>(n, w.first * stride);
  zero<T>(n + w.last * stride, (w.rows - w.last) * stride);
  const int64_t rows = w.last - w.first;
  T* real = n + w.first * stride;
  int64_t u_stride;
  const T* a = operand_rows<S, T>(u + (w.origin + w.first) * p.in.in(), rows, p.in.in(), u_tile, &u_stride);
  p.in.multiply(rows, a, u_stride, real, stride);
  if (p.gate.normalised)
    normalise_rows<T>(real, stride, rows, 2 * p.gate.half, 2 * p.gate.channels, p.gate.eps, r + w.first);
}

}  // namespace lyra::cpu::LYRA_ISA
