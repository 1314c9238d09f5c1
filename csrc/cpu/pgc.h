// The projected gated convolution, whole: y = RMSNorm(W_out gated_conv(W_in u + b_in) + b_out) + residual.
#pragma once

#include "dispatch.h"

namespace lyra::cpu {

struct PgcArgs {
  DType dtype;                 // of u, y; parameters are f64 where this is f64, else f32
  Layout layout;
  int64_t in;                  // d_model, channels of u
  int64_t channels;            // E, of the convolution
  int64_t out;                 // channels of y
  int64_t width;               // of the convolution, any >= 1
  bool causal;                 // width-1 zeros on the left; else (width-1)/2 on the left, the rest on the right
  double eps;                  // of both norms
  const void* u;               // (rows, in)
  const void* in_weight;       // (2 E, in)
  const void* in_bias;         // (2 E), or null
  const void* in_norm_weight;  // (2 E), or null for no norm
  const void* conv_weight;     // (E, width)
  const void* conv_bias;       // (E), or null
  const void* out_weight;      // (out, E)
  const void* out_bias;        // (out), or null
  const void* out_norm_weight; // (out), or null for no norm
  const void* residual;        // (rows, out), dtype, or null
  void* y;                     // (rows, out); padded rows are written as zeros
};

// Gradients have the shapes of what they belong to: du in dtype, with zeros in padded rows, the others in the compute
// dtype. Those of absent parameters are null.
struct PgcBackwardArgs {
  PgcArgs forward;             // y and residual are not read
  const void* grad;            // (rows, out), dtype
  void *du, *din_weight, *din_bias, *din_norm_weight, *dconv_weight, *dconv_bias;
  void *dout_weight, *dout_bias, *dout_norm_weight;
};

}  // namespace lyra::cpu

LYRA_DECLARE_KERNEL(pgc, PgcArgs)
LYRA_DECLARE_KERNEL(pgc_backward, PgcBackwardArgs)
