// The S4D convolution as a recurrence, in linear time: s_t = a s_{t-1} + u_t, y_t = Re sum_n c_n s_{n,t} + D u_t.
// With two directions also + Re sum_n c'_n r_{n,t} with r_t = a r_{t+1} + u_{t+1} (the current token left out).
#pragma once

#include "../args.h"
#include "common.h"

namespace lyra::cuda {

using lyra::kScanChunk;

struct S4dScanArgs : lyra::S4dScanArgs {  // checkpoints (slots, directions, channels, modes, 2)
  void* workspace;  // s4d_scan_workspace() bytes; for the backward s4d_scan_backward_workspace()
  Stream stream;
};
using S4dScanBackwardArgs = S4dScanGradients<S4dScanArgs>;

size_t s4d_scan_workspace(const S4dScanArgs& args);
void s4d_scan(const S4dScanArgs& args);
size_t s4d_scan_backward_workspace(const S4dScanArgs& args);
void s4d_scan_backward(const S4dScanBackwardArgs& args);

}  // namespace lyra::cuda
