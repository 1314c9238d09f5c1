// The convolution kernel of a diagonal state space: K[h, l] = Re sum_n c[h, n] a[h, n]^l for 0 <= l < length.
#pragma once

#include "../args.h"
#include "dispatch.h"

namespace lyra::cpu {

using lyra::S4dKernelArgs;
using S4dKernelBackwardArgs = S4dKernelGradients<S4dKernelArgs>;

}  // namespace lyra::cpu

LYRA_DECLARE_KERNEL(s4d_kernel, S4dKernelArgs)
LYRA_DECLARE_KERNEL(s4d_kernel_backward, S4dKernelBackwardArgs)
