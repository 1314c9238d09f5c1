// The direct convolution with one long kernel per channel:
// y_t = sum_{s<=t} kernel_{t-s} u_s + sum_{s>t} reverse_kernel_{s-t-1} u_s + D u_t.
#pragma once

#include "dispatch.h"

namespace lyra::cpu {

struct CausalConvArgs {
  DType dtype;                 // of u and y; everything else is f64 where this is f64, else f32
  Layout layout;
  int64_t channels, taps, reverse_taps;
  const void* u;               // (rows, channels)
  const void* kernel;          // (channels, taps)
  const void* reverse_kernel;  // (channels, reverse_taps), or null with reverse_taps = 0
  const void* D;               // (channels), or null
  void* y;                     // (rows, channels)
  Order order = Order::channels_last;  // of u and y
};

struct CausalConvBackwardArgs {
  CausalConvArgs forward;      // y is not read
  const void* grad;            // (rows, channels), dtype
  void* du;                    // (rows, channels), dtype, in the order of u
  void* dkernel;               // the gradients of the parameters, shaped like them
  void* dreverse_kernel;       // or null
  void* dD;                    // or null
  Order grad_order = Order::channels_last;
};

}  // namespace lyra::cpu

LYRA_DECLARE_KERNEL(causal_conv, CausalConvArgs)
LYRA_DECLARE_KERNEL(causal_conv_backward, CausalConvBackwardArgs)
