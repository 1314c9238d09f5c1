// The convolution kernel of a diagonal state space: K[h, l] = Re sum_n c[h, n] a[h, n]^l for 0 <= l < length.
#pragma once

#include "dispatch.h"

namespace lyra::cpu {

struct S4dKernelArgs {
  DType dtype;             // of everything: f32 or f64
  int64_t channels, modes, length;
  const void* log_dt;      // (channels)
  const void* log_A_real;  // (channels, modes)
  const void* A_imag;      // (channels, modes)
  const void* C;           // (channels, modes, 2)
  void* kernel;            // (channels, length)
};

struct S4dKernelBackwardArgs {
  S4dKernelArgs forward;   // kernel is not read
  const void* grad;        // (channels, length)
  void* dlog_dt;           // the gradients of the parameters, shaped like them
  void* dlog_A_real;
  void* dA_imag;
  void* dC;
};

}  // namespace lyra::cpu

LYRA_DECLARE_KERNEL(s4d_kernel, S4dKernelArgs)
LYRA_DECLARE_KERNEL(s4d_kernel_backward, S4dKernelBackwardArgs)
