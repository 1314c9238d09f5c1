// The tail of an S4D layer: out = z1 sigmoid(z2) + residual, (z1, z2) = split(W (gelu(y) mask) + b).
#pragma once

#include "dispatch.h"

namespace lyra::cpu {

struct GeluGluArgs {
  DType dtype;           // of y, residual, out; parameters are f64 where this is f64, else f32
  Layout layout;
  int64_t channels;      // H
  const void* y;         // (rows, H)
  const void* weight;    // (2 H, H)
  const void* bias;      // (2 H), or null
  const void* mask;      // (sequences, H), compute dtype; or null
  const void* residual;  // (rows, H), or null
  void* out;             // (rows, H); padded rows are written as zeros
  Order order = Order::channels_last;  // of y
  Order out_order = Order::channels_last;
  Order residual_order = Order::channels_last;
};

struct GeluGluBackwardArgs {
  GeluGluArgs forward;   // residual and out are not read
  const void* grad;      // (rows, H), dtype
  void* dy;              // (rows, H), dtype, in the order of y; padded rows are written as zeros
  void* dweight;         // (2 H, H), compute dtype
  void* dbias;           // (2 H), or null
  Order grad_order = Order::channels_last;
};

}  // namespace lyra::cpu

LYRA_DECLARE_KERNEL(gelu_glu, GeluGluArgs)
LYRA_DECLARE_KERNEL(gelu_glu_backward, GeluGluBackwardArgs)
