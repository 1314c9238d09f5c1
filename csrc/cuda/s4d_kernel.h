// The convolution kernel of a diagonal state space, K_l = Re sum_n c_n a_n^l, and its gradient.
#pragma once

#include <cstddef>

#include "common.h"

namespace lyra::cuda {

struct S4dKernelArgs {
  DType dtype;             // f32 or f64, of everything
  int64_t channels, modes, length;
  const void* log_dt;      // (channels)
  const void* log_A_real;  // (channels, modes)
  const void* A_imag;      // (channels, modes)
  const void* C;           // (channels, modes, 2)
  void* kernel;            // (channels, length)
  Stream stream;
};

struct S4dKernelBackwardArgs {
  S4dKernelArgs forward;  // kernel is not used
  const void* grad;       // (channels, length)
  void* dlog_dt;          // the gradients of the parameters, shaped like them
  void* dlog_A_real;
  void* dA_imag;
  void* dC;
  void* workspace;        // s4d_kernel_backward_workspace() bytes
};

void s4d_kernel(const S4dKernelArgs& args);
size_t s4d_kernel_backward_workspace(const S4dKernelArgs& args);
void s4d_kernel_backward(const S4dKernelBackwardArgs& args);

}  // namespace lyra::cuda
