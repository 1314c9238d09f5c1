// What the operators that CPU and CUDA share are told of the CPU.
#pragma once

#include "bind/cpu/call.h"
#include "bind/shared_ops.h"
#include "cpu/gated_conv.h"
#include "cpu/rms_norm.h"
#include "cpu/s4d_kernel.h"
#include "cpu/s4d_scan.h"

namespace lyra::binding {

struct Cpu {
  using Call = CpuCall;
  using RmsNormArgs = cpu::RmsNormArgs;
  using RmsNormBackwardArgs = cpu::RmsNormBackwardArgs;
  using GatedConvArgs = cpu::GatedConvArgs;
  using GatedConvBackwardArgs = cpu::GatedConvBackwardArgs;
  using S4dScanArgs = cpu::S4dScanArgs;
  using S4dScanBackwardArgs = cpu::S4dScanBackwardArgs;
  using S4dKernelArgs = cpu::S4dKernelArgs;
  using S4dKernelBackwardArgs = cpu::S4dKernelBackwardArgs;

  static void** result(GatedConvArgs& args) { return &args.y; }
  static void run(Call& call, RmsNormArgs& args) { cpu::rms_norm(args, call.threads()); }
  static void run(Call& call, RmsNormBackwardArgs& args) { cpu::rms_norm_backward(args, call.threads()); }
  static void run(Call& call, GatedConvArgs& args) { cpu::gated_conv(args, call.threads()); }
  static void run(Call& call, GatedConvBackwardArgs& args) { cpu::gated_conv_backward(args, call.threads()); }
  static void run(Call& call, S4dScanArgs& args) { cpu::s4d_scan(args, call.threads()); }
  static void run(Call& call, S4dScanBackwardArgs& args) { cpu::s4d_scan_backward(args, call.threads()); }
  static void run(Call& call, S4dKernelArgs& args) { cpu::s4d_kernel(args, call.threads()); }
  static void run(Call& call, S4dKernelBackwardArgs& args) { cpu::s4d_kernel_backward(args, call.threads()); }
};

}  // namespace lyra::binding
