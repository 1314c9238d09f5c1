#include "bind/cpu/shared_ops.h"

STABLE_TORCH_LIBRARY_IMPL(lyra, CPU, m) {
  using namespace lyra::binding;
  m.impl("rms_norm", TORCH_BOX(&rms_norm<Cpu>));
  m.impl("rms_norm_backward", TORCH_BOX(&rms_norm_backward<Cpu>));
  m.impl("gated_conv", TORCH_BOX(&gated_conv<Cpu>));
  m.impl("gated_conv_backward", TORCH_BOX(&gated_conv_backward<Cpu>));
  m.impl("s4d_scan", TORCH_BOX(&s4d_scan<Cpu>));
  m.impl("s4d_scan_backward", TORCH_BOX(&s4d_scan_backward<Cpu>));
  m.impl("s4d_kernel", TORCH_BOX(&s4d_kernel<Cpu>));
  m.impl("s4d_kernel_backward", TORCH_BOX(&s4d_kernel_backward<Cpu>));
}
