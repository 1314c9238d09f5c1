#include "bind/cuda/call.h"
#include "cuda/s4d_kernel.h"

namespace lyra::binding {
namespace {

cuda::S4dKernelArgs arguments(CudaCall& call, const Tensor& log_dt, const Tensor& log_A_real, const Tensor& A_imag,
                              const Tensor& C, int64_t length) {
  STD_TORCH_CHECK(log_A_real.dim() == 2, "log_A_real must be (channels, modes)");
  STD_TORCH_CHECK(length >= 0, "length must be 0 or more, not ", length);
  cuda::S4dKernelArgs args;
  args.dtype = call.dtype();
  args.channels = log_A_real.size(0);
  args.modes = log_A_real.size(1);
  args.length = length;
  STD_TORCH_CHECK(log_dt.scalar_type() == call.compute(), "log_dt must be float32 or float64");
  args.log_dt = call.parameter(log_dt, "log_dt", {args.channels});
  args.log_A_real = call.parameter(log_A_real, "log_A_real", {args.channels, args.modes});
  args.A_imag = call.parameter(A_imag, "A_imag", {args.channels, args.modes});
  args.C = call.parameter(C, "C", {args.channels, args.modes, 2});
  args.kernel = nullptr;
  args.stream = call.stream();
  return args;
}

Tensor s4d_kernel(const Tensor& log_dt, const Tensor& log_A_real, const Tensor& A_imag, const Tensor& C,
                  int64_t length) {
  CudaCall call(log_dt);
  cuda::S4dKernelArgs args = arguments(call, log_dt, log_A_real, A_imag, C, length);
  Tensor kernel = call.output(&args.kernel, "kernel", call.compute(), {args.channels, length});
  cuda::s4d_kernel(args);
  return kernel;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> s4d_kernel_backward(const Tensor& grad, const Tensor& log_dt,
                                                               const Tensor& log_A_real, const Tensor& A_imag,
                                                               const Tensor& C) {
  CudaCall call(log_dt);
  STD_TORCH_CHECK(grad.dim() == 2, "grad must be (channels, length)");
  cuda::S4dKernelBackwardArgs args;
  args.forward = arguments(call, log_dt, log_A_real, A_imag, C, grad.size(1));
  args.grad = call.parameter(grad, "grad", {args.forward.channels, grad.size(1)});
  Tensor dlog_dt = call.output_like(&args.dlog_dt, "dlog_dt", log_dt);
  Tensor dlog_A_real = call.output_like(&args.dlog_A_real, "dlog_A_real", log_A_real);
  Tensor dA_imag = call.output_like(&args.dA_imag, "dA_imag", A_imag);
  Tensor dC = call.output_like(&args.dC, "dC", C);
  Tensor workspace = call.workspace(&args.workspace, cuda::s4d_kernel_backward_workspace(args.forward));
  cuda::s4d_kernel_backward(args);
  return {dlog_dt, dlog_A_real, dA_imag, dC};
}

}  // namespace
}  // namespace lyra::binding

#define MODE_ARGUMENTS "Tensor log_dt, Tensor log_A_real, Tensor A_imag, Tensor C"

STABLE_TORCH_LIBRARY_FRAGMENT(LYRA_CUDA_LIBRARY, m) {
  m.def("s4d_kernel(" MODE_ARGUMENTS ", SymInt length) -> Tensor");
  m.def("s4d_kernel_backward(Tensor grad, " MODE_ARGUMENTS ") -> (Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(LYRA_CUDA_LIBRARY, LYRA_CUDA_KEY, m) {
  m.impl("s4d_kernel", TORCH_BOX(&lyra::binding::s4d_kernel));
  m.impl("s4d_kernel_backward", TORCH_BOX(&lyra::binding::s4d_kernel_backward));
}
