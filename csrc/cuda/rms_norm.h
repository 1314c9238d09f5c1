// RMSNorm over the last dimension: y = x / sqrt(mean(x^2) + eps) * weight.
#pragma once

#include "../args.h"
#include "common.h"

namespace lyra::cuda {

struct RmsNormArgs : lyra::RmsNormArgs {
  Stream stream;
};
struct RmsNormBackwardArgs : RmsNormGradients<RmsNormArgs> {
  void* workspace;  // rms_norm_backward_workspace() bytes
};

void rms_norm(const RmsNormArgs& args);
size_t rms_norm_backward_workspace(const RmsNormArgs& args);
void rms_norm_backward(const RmsNormBackwardArgs& args);

}  // namespace lyra::cuda
