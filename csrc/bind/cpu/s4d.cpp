#include "bind/s4d.h"

#include "bind/cpu/call.h"
#include "cpu/s4d_kernel.h"
#include "cpu/s4d_scan.h"

namespace lyra::binding {
namespace {

struct Cpu {
  using Call = CpuCall;
  using ScanArgs = cpu::S4dScanArgs;
  using ScanBackwardArgs = cpu::S4dScanBackwardArgs;
  using KernelArgs = cpu::S4dKernelArgs;
  using KernelBackwardArgs = cpu::S4dKernelBackwardArgs;
  static void scan(CpuCall& call, ScanArgs& args) { cpu::s4d_scan(args, call.threads()); }
  static void scan_backward(CpuCall& call, ScanBackwardArgs& args) { cpu::s4d_scan_backward(args, call.threads()); }
  static void kernel(CpuCall& call, KernelArgs& args) { cpu::s4d_kernel(args, call.threads()); }
  static void kernel_backward(CpuCall& call, KernelBackwardArgs& args) {
    cpu::s4d_kernel_backward(args, call.threads());
  }
};

}  // namespace
}  // namespace lyra::binding

STABLE_TORCH_LIBRARY_IMPL(lyra, CPU, m) {
  using namespace lyra::binding;
  m.impl("s4d_scan", TORCH_BOX(&s4d_scan<Cpu>));
  m.impl("s4d_scan_backward", TORCH_BOX(&s4d_scan_backward<Cpu>));
  m.impl("s4d_kernel", TORCH_BOX(&s4d_kernel<Cpu>));
  m.impl("s4d_kernel_backward", TORCH_BOX(&s4d_kernel_backward<Cpu>));
}
