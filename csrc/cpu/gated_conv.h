// The gated convolution of a PGC block: z = v * (depthwise_conv(x) + bias), (x, v) = split(RMSNorm(xv)).
#pragma once

#include "../args.h"
#include "dispatch.h"

namespace lyra::cpu {

struct GatedConvArgs : lyra::GatedConvArgs {
  void* y;  // (rows, E); padded rows are written as zeros
};
using GatedConvBackwardArgs = GatedConvGradients<GatedConvArgs>;

}  // namespace lyra::cpu

LYRA_DECLARE_KERNEL(gated_conv, GatedConvArgs)
LYRA_DECLARE_KERNEL(gated_conv_backward, GatedConvBackwardArgs)
