// The gated depthwise convolution of a PGC block: out = v * (conv(x) + b) with x, v = split(rmsnorm(xv)).
#pragma once

#include <cstddef>

#include "common.h"

namespace lyra::cuda {

struct GatedConvArgs {
  DType dtype;              // of xv, out, grad, dxv; parameters are f64 where this is f64, else f32
  Layout layout;
  int64_t channels;         // E
  int width;                // k, the taps of the convolution
  bool causal;              // left padding k - 1; else (k - 1) / 2
  double eps;
  const void* xv;           // (rows, 2E)
  const void* conv_weight;  // (E, 1, k)
  const void* conv_bias;    // (E), or null
  const void* norm_weight;  // (2E), or null: no norm at all
  void* out;                // (rows, E)
  Stream stream;
};

struct GatedConvBackwardArgs {
  GatedConvArgs forward;  // out is not used
  const void* grad;       // (rows, E)
  void* dxv;              // (rows, 2E)
  void* dconv_weight;     // (E, 1, k), compute dtype
  void* dconv_bias;       // (E), or null
  void* dnorm_weight;     // (2E), or null
  void* workspace;        // gated_conv_backward_workspace() bytes
};

void gated_conv(const GatedConvArgs& args);
size_t gated_conv_backward_workspace(const GatedConvArgs& args);
void gated_conv_backward(const GatedConvBackwardArgs& args);

}  // namespace lyra::cuda
