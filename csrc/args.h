// The arguments of the operators that have both CPU and CUDA kernels: what these have in common.
#pragma once

#include "batch.h"

namespace lyra {

struct RmsNormArgs {
  DType dtype;         // of x, y; weight is f64 where this is f64, else f32
  int64_t rows, channels;
  const void* x;       // (rows, channels)
  const void* weight;  // (channels), or null for all ones
  double eps;
  void* y;             // (rows, channels)
};

template <class Forward>
struct RmsNormGradients {
  Forward forward;   // y is not used
  const void* grad;  // (rows, channels), dtype
  void* dx;          // (rows, channels), dtype
  void* dweight;     // (channels), compute dtype; null when there is no weight
};

struct GatedConvArgs {
  DType dtype;              // of activations; parameters are f64 where this is f64, else f32
  Layout layout;
  int64_t channels;         // E
  int64_t width;            // of the convolution, any >= 1
  bool causal;              // width-1 zeros on the left; else (width-1)/2 on the left, the rest on the right
  double eps;
  const void* xv;           // (rows, 2 E)
  const void* conv_weight;  // (E, 1, width)
  const void* conv_bias;    // (E), or null for zeros
  const void* norm_weight;  // (2 E), or null for no norm at all
};

template <class Forward>
struct GatedConvGradients {
  Forward forward;     // the output is not used
  const void* grad;    // (rows, E), dtype
  void* dxv;           // (rows, 2 E), dtype; padded rows are written as zeros
  void* dconv_weight;  // (E, 1, width), compute dtype
  void* dconv_bias;    // (E), or null
  void* dnorm_weight;  // (2 E), or null
};

constexpr int64_t kScanChunk = 64;  // tokens between two checkpoints

struct S4dScanArgs {
  DType dtype;                // of u and y; everything else is f64 where this is f64, else f32
  Layout layout;
  int64_t channels, modes, directions;
  const void* u;              // (rows, channels)
  const void* log_dt;         // (channels)
  const void* log_A_real;     // (channels, modes)
  const void* A_imag;         // (channels, modes)
  const void* C;              // (directions, channels, modes, 2)
  const void* D;              // (channels), or null
  const void* initial_state;  // (sequences, channels, modes, 2), or null; one direction only
  void* y;                    // (rows, channels)
  void* final_state;          // (sequences, channels, modes, 2); null with two directions
  void* checkpoints;          // (layout.tiles(kScanChunk), directions * channels * modes * 2), in an order of the
                              // kernel's own: the state that enters each chunk; or null
};

template <class Forward>
struct S4dScanGradients {
  Forward forward;               // y and final_state are not used; checkpoints are read
  const void* grad_y;            // (rows, channels), dtype
  const void* grad_final_state;  // like final_state, or null
  void* du;                      // (rows, channels), dtype
  void* dlog_dt;                 // the gradients of the parameters, shaped like them
  void* dlog_A_real;
  void* dA_imag;
  void* dC;
  void* dD;                      // or null
  void* dinitial_state;          // or null
};

struct S4dKernelArgs {
  DType dtype;             // f32 or f64, of everything
  int64_t channels, modes, length;
  const void* log_dt;      // (channels)
  const void* log_A_real;  // (channels, modes)
  const void* A_imag;      // (channels, modes)
  const void* C;           // (channels, modes, 2)
  void* kernel;            // (channels, length)
};

template <class Forward>
struct S4dKernelGradients {
  Forward forward;   // kernel is not used
  const void* grad;  // (channels, length)
  void* dlog_dt;     // the gradients of the parameters, shaped like them
  void* dlog_A_real;
  void* dA_imag;
  void* dC;
};

}  // namespace lyra
