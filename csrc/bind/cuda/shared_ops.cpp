#include "bind/shared_ops.h"

#include "bind/cuda/call.h"
#include "cuda/gated_conv.h"
#include "cuda/rms_norm.h"
#include "cuda/s4d_kernel.h"
#include "cuda/s4d_scan.h"

namespace lyra::binding {
namespace {

struct Cuda {
  using Call = CudaCall;
  using RmsNormArgs = cuda::RmsNormArgs;
  using RmsNormBackwardArgs = cuda::RmsNormBackwardArgs;
  using GatedConvArgs = cuda::GatedConvArgs;
  using GatedConvBackwardArgs = cuda::GatedConvBackwardArgs;
  using S4dScanArgs = cuda::S4dScanArgs;
  using S4dScanBackwardArgs = cuda::S4dScanBackwardArgs;
  using S4dKernelArgs = cuda::S4dKernelArgs;
  using S4dKernelBackwardArgs = cuda::S4dKernelBackwardArgs;

  static void** result(GatedConvArgs& args) { return &args.out; }
  static void run(Call& call, RmsNormArgs& args) {
    args.stream = call.stream();
    cuda::rms_norm(args);
  }
  static void run(Call& call, RmsNormBackwardArgs& args) {
    args.forward.stream = call.stream();
    const Tensor memory = call.workspace(&args.workspace, cuda::rms_norm_backward_workspace(args.forward));
    cuda::rms_norm_backward(args);
  }
  static void run(Call& call, GatedConvArgs& args) {
    args.stream = call.stream();
    cuda::gated_conv(args);
  }
  static void run(Call& call, GatedConvBackwardArgs& args) {
    args.forward.stream = call.stream();
    const Tensor memory = call.workspace(&args.workspace, cuda::gated_conv_backward_workspace(args.forward));
    cuda::gated_conv_backward(args);
  }
  static void run(Call& call, S4dScanArgs& args) {
    args.stream = call.stream();
    const Tensor memory = call.workspace(&args.workspace, cuda::s4d_scan_workspace(args));
    cuda::s4d_scan(args);
  }
  static void run(Call& call, S4dScanBackwardArgs& args) {
    S4dScanArgs& forward = args.forward;
    forward.stream = call.stream();
    const Tensor memory = call.workspace(&forward.workspace, cuda::s4d_scan_backward_workspace(forward));
    cuda::s4d_scan_backward(args);
  }
  static void run(Call& call, S4dKernelArgs& args) {
    args.stream = call.stream();
    cuda::s4d_kernel(args);
  }
  static void run(Call& call, S4dKernelBackwardArgs& args) {
    args.forward.stream = call.stream();
    const Tensor memory = call.workspace(&args.workspace, cuda::s4d_kernel_backward_workspace(args.forward));
    cuda::s4d_kernel_backward(args);
  }
};

}  // namespace
}  // namespace lyra::binding

#define GATED_ARGUMENTS                                                                                 \
  "Tensor xv, Tensor conv_weight, Tensor? conv_bias, Tensor? norm_weight, Tensor? lengths, "            \
  "Tensor? cu_seqlens, float eps, bool causal"
#define SCAN_ARGUMENTS                                                                                    \
  "Tensor u, Tensor log_dt, Tensor log_A_real, Tensor A_imag, Tensor C, Tensor? D, Tensor? lengths, "     \
  "Tensor? cu_seqlens, Tensor? initial_state, "
#define MODE_ARGUMENTS "Tensor log_dt, Tensor log_A_real, Tensor A_imag, Tensor C"

STABLE_TORCH_LIBRARY_FRAGMENT(LYRA_CUDA_LIBRARY, m) {
  m.def("rms_norm(Tensor x, Tensor? weight, float eps) -> Tensor");
  m.def("rms_norm_backward(Tensor grad, Tensor x, Tensor? weight, float eps) -> (Tensor, Tensor)");
  m.def("gated_conv(" GATED_ARGUMENTS ") -> Tensor");
  m.def("gated_conv_backward(Tensor grad, " GATED_ARGUMENTS ") -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("s4d_scan(" SCAN_ARGUMENTS "bool save) -> (Tensor, Tensor, Tensor)");
  m.def("s4d_scan_backward(Tensor grad_y, Tensor? grad_final_state, " SCAN_ARGUMENTS
        "Tensor checkpoints) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("s4d_kernel(" MODE_ARGUMENTS ", SymInt length) -> Tensor");
  m.def("s4d_kernel_backward(Tensor grad, " MODE_ARGUMENTS ") -> (Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(LYRA_CUDA_LIBRARY, LYRA_CUDA_KEY, m) {
  using namespace lyra::binding;
  m.impl("rms_norm", TORCH_BOX(&rms_norm<Cuda>));
  m.impl("rms_norm_backward", TORCH_BOX(&rms_norm_backward<Cuda>));
  m.impl("gated_conv", TORCH_BOX(&gated_conv<Cuda>));
  m.impl("gated_conv_backward", TORCH_BOX(&gated_conv_backward<Cuda>));
  m.impl("s4d_scan", TORCH_BOX(&s4d_scan<Cuda>));
  m.impl("s4d_scan_backward", TORCH_BOX(&s4d_scan_backward<Cuda>));
  m.impl("s4d_kernel", TORCH_BOX(&s4d_kernel<Cuda>));
  m.impl("s4d_kernel_backward", TORCH_BOX(&s4d_kernel_backward<Cuda>));
}
