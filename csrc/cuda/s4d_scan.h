// The S4D convolution as a recurrence, in linear time: s_t = a s_{t-1} + u_t, y_t = Re sum_n c_n s_{n,t} + D u_t.
// With two directions also + Re sum_n c'_n r_{n,t} with r_t = a r_{t+1} + u_{t+1} (the current token left out).
#pragma once

#include <cstddef>

#include "common.h"

namespace lyra::cuda {

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
  void* checkpoints;          // (layout.tiles(kScanChunk), directions, channels, modes, 2), or null
  void* workspace;            // s4d_scan_workspace() bytes
  Stream stream;
};

struct S4dScanBackwardArgs {
  S4dScanArgs forward;           // y and final_state are not used; checkpoints are read
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

size_t s4d_scan_workspace(const S4dScanArgs& args);
void s4d_scan(const S4dScanArgs& args);
size_t s4d_scan_backward_workspace(const S4dScanArgs& args);
void s4d_scan_backward(const S4dScanBackwardArgs& args);

}  // namespace lyra::cuda
