// RMSNorm over the last dimension: y = x / sqrt(mean(x^2) + eps) * weight.
#pragma once

#include <cstddef>

#include "common.h"

namespace lyra::cuda {

struct RmsNormArgs {
  DType dtype;         // of x, y, grad, dx; weight is f64 where this is f64, else f32
  int64_t rows, channels;
  const void* x;       // (rows, channels)
  const void* weight;  // (channels), or null for all ones
  double eps;
  void* y;             // (rows, channels)
  Stream stream;
};

struct RmsNormBackwardArgs {
  RmsNormArgs forward;  // y is not used
  const void* grad;     // (rows, channels)
  void* dx;             // (rows, channels)
  void* dweight;        // (channels), compute dtype; null when there is no weight
  void* workspace;      // rms_norm_backward_workspace() bytes
};

void rms_norm(const RmsNormArgs& args);
size_t rms_norm_backward_workspace(const RmsNormArgs& args);
void rms_norm_backward(const RmsNormBackwardArgs& args);

}  // namespace lyra::cuda
