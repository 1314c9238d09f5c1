// The S4D convolution as a recurrence: s_t = a s_{t-1} + u_t, y_t = Re sum_n c_n s_{n,t} + D u_t, in linear time.
// With two directions also + Re sum_n c'_n r_{n,t} with r_t = a r_{t+1} + u_{t+1} (the current token left out).
#pragma once

#include "../args.h"
#include "dispatch.h"

namespace lyra::cpu {

using lyra::kScanChunk;

struct S4dScanArgs : lyra::S4dScanArgs {  // checkpoints (slots, directions, modes, 2, channels)
  Order order = Order::channels_last;     // of u
  Order y_order = Order::channels_last;
};

struct S4dScanBackwardArgs : S4dScanGradients<S4dScanArgs> {  // du lies as u
  Order grad_order = Order::channels_last;
};

}  // namespace lyra::cpu

LYRA_DECLARE_KERNEL(s4d_scan, S4dScanArgs)
LYRA_DECLARE_KERNEL(s4d_scan_backward, S4dScanBackwardArgs)
