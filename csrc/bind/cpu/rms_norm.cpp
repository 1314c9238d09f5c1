#include "cpu/rms_norm.h"

#include "bind/cpu/call.h"

namespace lyra::binding {
namespace {

cpu::RmsNormArgs arguments(CpuCall& call, const Tensor& x, const OptionalTensor& weight, double eps) {
  STD_TORCH_CHECK(x.dim() >= 1, "x must have at least one dimension");
  cpu::RmsNormArgs args;
  args.dtype = call.dtype();
  args.channels = x.size(x.dim() - 1);
  args.rows = args.channels ? x.numel() / args.channels : 0;
  args.x = call.elements(x, "x");
  args.weight = call.parameter(weight, "weight", {args.channels});
  args.eps = eps;
  args.y = nullptr;
  return args;
}

Tensor rms_norm(const Tensor& x, const OptionalTensor& weight, double eps) {
  CpuCall call(x, "x");
  cpu::RmsNormArgs args = arguments(call, x, weight, eps);
  Tensor y = call.output_like(&args.y, "y", x);
  cpu::rms_norm(args, call.threads());
  return y;
}

std::tuple<Tensor, Tensor> rms_norm_backward(const Tensor& grad, const Tensor& x, const OptionalTensor& weight,
                                             double eps) {
  CpuCall call(x, "x");
  cpu::RmsNormBackwardArgs args;
  args.forward = arguments(call, x, weight, eps);
  args.grad = call.elements(grad, "grad");
  Tensor dx = call.output_like(&args.dx, "dx", x);
  Tensor dweight = call.gradient(weight, &args.dweight, "dweight");
  cpu::rms_norm_backward(args, call.threads());
  return {dx, dweight};
}

}  // namespace
}  // namespace lyra::binding

STABLE_TORCH_LIBRARY_IMPL(lyra, CPU, m) {
  m.impl("rms_norm", TORCH_BOX(&lyra::binding::rms_norm));
  m.impl("rms_norm_backward", TORCH_BOX(&lyra::binding::rms_norm_backward));
}
