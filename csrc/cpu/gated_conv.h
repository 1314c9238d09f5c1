// The gated convolution of a PGC block: z = v * (depthwise_conv(x) + bias), (x, v) = split(RMSNorm(xv)).
#pragma once

#include "dispatch.h"

namespace lyra::cpu {

struct GatedConvArgs {
  DType dtype;               // of xv, y; parameters are f64 where this is f64, else f32
  Layout layout;
  int64_t channels;          // E
  int64_t width;             // of the convolution, any >= 1
  bool causal;               // width-1 zeros on the left; else (width-1)/2 on the left, the rest on the right
  double eps;
  const void* xv;            // (rows, 2 E)
  const void* conv_weight;   // (E, width)
  const void* conv_bias;     // (E), or null for zeros
  const void* norm_weight;   // (2 E), or null for no norm at all
  void* y;                   // (rows, E); padded rows are written as zeros
};

struct GatedConvBackwardArgs {
  GatedConvArgs forward;     // y is not read
  const void* grad;          // (rows, E), dtype
  void* dxv;                 // (rows, 2 E), dtype; padded rows are written as zeros
  void* dconv_weight;        // (E, width), compute dtype
  void* dconv_bias;          // (E), or null
  void* dnorm_weight;        // (2 E), or null
};

}  // namespace lyra::cpu

LYRA_DECLARE_KERNEL(gated_conv, GatedConvArgs)
LYRA_DECLARE_KERNEL(gated_conv_backward, GatedConvBackwardArgs)
