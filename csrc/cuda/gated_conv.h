// The gated depthwise convolution of a PGC block: out = v * (conv(x) + b) with x, v = split(rmsnorm(xv)).
#pragma once

#include "../args.h"
#include "common.h"

namespace lyra::cuda {

struct GatedConvArgs : lyra::GatedConvArgs {
  void* out;  // (rows, E)
  Stream stream;
};
struct GatedConvBackwardArgs : GatedConvGradients<GatedConvArgs> {
  void* workspace;  // gated_conv_backward_workspace() bytes
};

void gated_conv(const GatedConvArgs& args);
size_t gated_conv_backward_workspace(const GatedConvArgs& args);
void gated_conv_backward(const GatedConvBackwardArgs& args);

}  // namespace lyra::cuda
