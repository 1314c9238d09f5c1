#include "bind/shared_ops.h"

#include "bind/cpu/call.h"
#include "cpu/gated_conv.h"
#include "cpu/rms_norm.h"
#include "cpu/s4d_kernel.h"
#include "cpu/s4d_scan.h"

namespace lyra::binding {
namespace {

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

}  // namespace
}  // namespace lyra::binding

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
