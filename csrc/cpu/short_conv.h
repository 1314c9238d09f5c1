// A causal depthwise convolution of few taps: y_t = act(sum_j weight_j u_{t-W+1+j} + bias), act(z) = z sigmoid(z) or z.
#pragma once

#include "dispatch.h"

namespace lyra::cpu {

// Activations lie as (batch, length, channels), or channels first as (batch, channels, length).
struct ShortConvArgs {
  DType dtype;                // of u and y; everything else is f64 where this is f64, else f32
  Layout layout;
  int64_t channels, width;    // width >= 1
  bool silu;
  bool channels_first;        // how u lies, and y
  const void* u;
  const void* weight;         // (channels, width); the last tap is a token's own
  const void* bias;           // (channels), or null
  const void* initial_state;  // (sequences, width - 1, channels), the tokens before the first; null for zeros
  void* y;
};

struct ShortConvBackwardArgs {
  ShortConvArgs forward;     // y is not read
  bool grad_channels_first;  // how grad lies; du lies as u
  const void* grad;          // dtype
  void* du;                  // dtype
  void* dweight;             // the gradients of the parameters, shaped like them
  void* dbias;               // or null
  void* dinitial_state;      // or null
};

}  // namespace lyra::cpu

LYRA_DECLARE_KERNEL(short_conv, ShortConvArgs)
LYRA_DECLARE_KERNEL(short_conv_backward, ShortConvBackwardArgs)
