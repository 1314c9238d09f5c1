// The convolution with one long kernel per channel by Fourier transforms, with gates before and behind it:
// y = postgate conv(u pregate),  conv as in causal_conv.h.
#pragma once

#include "causal_conv.h"

namespace lyra::cpu {

// The order of memory is that of each activation for itself; what belongs to one lies as it does.
struct FftConvArgs : CausalConvArgs {
  const void* pregate = nullptr;   // (rows, channels), or null
  const void* postgate = nullptr;  // (rows, channels), or null
  Order pregate_order = Order::channels_last, postgate_order = Order::channels_last;
};

struct FftConvBackwardArgs {
  FftConvArgs forward;         // y is not read
  const void* grad;            // (rows, channels), dtype
  void* du;                    // (rows, channels), dtype
  void* dkernel;               // the gradients of the parameters, shaped like them
  void* dreverse_kernel;       // or null
  void* dD;                    // or null
  void* dpregate;              // (rows, channels), dtype, or null
  void* dpostgate;             // (rows, channels), dtype, or null
  Order grad_order = Order::channels_last;
};

}  // namespace lyra::cpu

LYRA_DECLARE_KERNEL(fft_conv, FftConvArgs)
LYRA_DECLARE_KERNEL(fft_conv_backward, FftConvBackwardArgs)
