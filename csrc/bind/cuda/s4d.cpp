#include "bind/s4d.h"

#include "bind/cuda/call.h"
#include "cuda/s4d_kernel.h"
#include "cuda/s4d_scan.h"

namespace lyra::binding {
namespace {

struct Cuda {
  using Call = CudaCall;
  using ScanArgs = cuda::S4dScanArgs;
  using ScanBackwardArgs = cuda::S4dScanBackwardArgs;
  using KernelArgs = cuda::S4dKernelArgs;
  using KernelBackwardArgs = cuda::S4dKernelBackwardArgs;
  static void scan(CudaCall& call, ScanArgs& args) {
    args.stream = call.stream();
    Tensor workspace = call.workspace(&args.workspace, cuda::s4d_scan_workspace(args));
    cuda::s4d_scan(args);
  }
  static void scan_backward(CudaCall& call, ScanBackwardArgs& args) {
    args.forward.stream = call.stream();
    Tensor workspace = call.workspace(&args.forward.workspace, cuda::s4d_scan_backward_workspace(args.forward));
    cuda::s4d_scan_backward(args);
  }
  static void kernel(CudaCall& call, KernelArgs& args) {
    args.stream = call.stream();
    cuda::s4d_kernel(args);
  }
  static void kernel_backward(CudaCall& call, KernelBackwardArgs& args) {
    args.forward.stream = call.stream();
    Tensor workspace = call.workspace(&args.workspace, cuda::s4d_kernel_backward_workspace(args.forward));
    cuda::s4d_kernel_backward(args);
  }
};

}  // namespace
}  // namespace lyra::binding

#define SCAN_ARGUMENTS                                                                                    \
  "Tensor u, Tensor log_dt, Tensor log_A_real, Tensor A_imag, Tensor C, Tensor? D, Tensor? lengths, "     \
  "Tensor? cu_seqlens, Tensor? initial_state, "
#define MODE_ARGUMENTS "Tensor log_dt, Tensor log_A_real, Tensor A_imag, Tensor C"

STABLE_TORCH_LIBRARY_FRAGMENT(LYRA_CUDA_LIBRARY, m) {
  m.def("s4d_scan(" SCAN_ARGUMENTS "bool save) -> (Tensor, Tensor, Tensor)");
  m.def("s4d_scan_backward(Tensor grad_y, Tensor? grad_final_state, " SCAN_ARGUMENTS
        "Tensor checkpoints) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("s4d_kernel(" MODE_ARGUMENTS ", SymInt length) -> Tensor");
  m.def("s4d_kernel_backward(Tensor grad, " MODE_ARGUMENTS ") -> (Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(LYRA_CUDA_LIBRARY, LYRA_CUDA_KEY, m) {
  using namespace lyra::binding;
  m.impl("s4d_scan", TORCH_BOX(&s4d_scan<Cuda>));
  m.impl("s4d_scan_backward", TORCH_BOX(&s4d_scan_backward<Cuda>));
  m.impl("s4d_kernel", TORCH_BOX(&s4d_kernel<Cuda>));
  m.impl("s4d_kernel_backward", TORCH_BOX(&s4d_kernel_backward<Cuda>));
}
