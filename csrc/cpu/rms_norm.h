// RMSNorm over the last dimension: y = x / sqrt(mean(x^2) + eps) * weight.
#pragma once

#include "../args.h"
#include "dispatch.h"

namespace lyra::cpu {

using lyra::RmsNormArgs;
using RmsNormBackwardArgs = RmsNormGradients<RmsNormArgs>;

}  // namespace lyra::cpu

LYRA_DECLARE_KERNEL(rms_norm, RmsNormArgs)
LYRA_DECLARE_KERNEL(rms_norm_backward, RmsNormBackwardArgs)
