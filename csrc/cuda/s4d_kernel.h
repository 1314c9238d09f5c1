// The convolution kernel of a diagonal state space, K_l = Re sum_n c_n a_n^l, and its gradient.
#pragma once

#include "../args.h"
#include "common.h"

namespace lyra::cuda {

struct S4dKernelArgs : lyra::S4dKernelArgs {
  Stream stream;
};
struct S4dKernelBackwardArgs : S4dKernelGradients<S4dKernelArgs> {
  void* workspace;  // s4d_kernel_backward_workspace() bytes
};

void s4d_kernel(const S4dKernelArgs& args);
size_t s4d_kernel_backward_workspace(const S4dKernelArgs& args);
void s4d_kernel_backward(const S4dKernelBackwardArgs& args);

}  // namespace lyra::cuda
