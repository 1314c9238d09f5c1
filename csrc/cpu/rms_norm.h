// RMSNorm over the last dimension: y = x / sqrt(mean(x^2) + eps) * weight.
#pragma once

#include "dispatch.h"

namespace lyra::cpu {

struct RmsNormArgs {
  DType dtype;           // of x, y; weight is f64 where this is f64, else f32
  int64_t rows, channels;
  const void* x;         // (rows, channels)
  const void* weight;    // (channels), or null for all ones
  double eps;
  void* y;               // (rows, channels)
};

struct RmsNormBackwardArgs {
  RmsNormArgs forward;   // y is not read
  const void* grad;      // (rows, channels), dtype
  void* dx;              // (rows, channels), dtype
  void* dweight;         // (channels), compute dtype; null when there is no weight
};

}  // namespace lyra::cpu

LYRA_DECLARE_KERNEL(rms_norm, RmsNormArgs)
LYRA_DECLARE_KERNEL(rms_norm_backward, RmsNormBackwardArgs)
