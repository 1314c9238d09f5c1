#include "cuda/rms_norm.h"

#include "bind/cuda/call.h"

namespace lyra::binding {
namespace {

cuda::RmsNormArgs arguments(CudaCall& call, const Tensor& x, const OptionalTensor& weight, double eps) {
  STD_TORCH_CHECK(x.dim() >= 1, "x must have at least one dimension");
  cuda::RmsNormArgs args;
  args.dtype = call.dtype();
  args.channels = x.size(x.dim() - 1);
  args.rows = args.channels ? x.numel() / args.channels : 0;
  args.x = call.elements(x, "x");
  args.weight = call.parameter(weight, "weight", {args.channels});
  args.eps = eps;
  args.y = nullptr;
  args.stream = call.stream();
  return args;
}

Tensor rms_norm(const Tensor& x, const OptionalTensor& weight, double eps) {
  CudaCall call(x, "x");
  cuda::RmsNormArgs args = arguments(call, x, weight, eps);
  Tensor y = call.output_like(&args.y, "y", x);
  cuda::rms_norm(args);
  return y;
}

std::tuple<Tensor, Tensor> rms_norm_backward(const Tensor& grad, const Tensor& x, const OptionalTensor& weight,
                                             double eps) {
  CudaCall call(x, "x");
  cuda::RmsNormBackwardArgs args;
  args.forward = arguments(call, x, weight, eps);
  args.grad = call.elements(grad, "grad");
  Tensor dx = call.output_like(&args.dx, "dx", x);
  Tensor dweight = call.gradient(weight, &args.dweight, "dweight");
  Tensor workspace = call.workspace(&args.workspace, cuda::rms_norm_backward_workspace(args.forward));
  cuda::rms_norm_backward(args);
  return {dx, dweight};
}

}  // namespace
}  // namespace lyra::binding

STABLE_TORCH_LIBRARY_FRAGMENT(LYRA_CUDA_LIBRARY, m) {
  m.def("rms_norm(Tensor x, Tensor? weight, float eps) -> Tensor");
  m.def("rms_norm_backward(Tensor grad, Tensor x, Tensor? weight, float eps) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(LYRA_CUDA_LIBRARY, LYRA_CUDA_KEY, m) {
  m.impl("rms_norm", TORCH_BOX(&lyra::binding::rms_norm));
  m.impl("rms_norm_backward", TORCH_BOX(&lyra::binding::rms_norm_backward));
}
