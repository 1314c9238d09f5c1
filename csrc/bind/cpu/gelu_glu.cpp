#include "bind/cpu/gelu_glu.h"

namespace lyra::binding {
namespace {

Tensor gelu_glu(const Tensor& y, const Tensor& weight, const OptionalTensor& bias, const OptionalTensor& mask,
                const OptionalTensor& residual, const OptionalTensor& lengths, const OptionalTensor& cu_seqlens) {
  return tail_of(y, weight, bias, mask, residual, lengths, cu_seqlens);
}

std::tuple<Tensor, Tensor, Tensor> gelu_glu_backward(const Tensor& grad, const Tensor& y, const Tensor& weight,
                                                     const OptionalTensor& bias, const OptionalTensor& mask,
                                                     const OptionalTensor& lengths,
                                                     const OptionalTensor& cu_seqlens) {
  CpuCall call(y, "y");
  cpu::GeluGluBackwardArgs args;
  args.forward = gelu_glu_arguments(call, y, weight, bias, mask, std::nullopt, lengths, cu_seqlens);
  args.grad = call.activations(grad, "grad", args.forward.channels, &args.grad_order);
  Tensor dy = call.output_like(&args.dy, "dy", y, args.forward.order);
  Tensor dweight = call.gradient(weight, &args.dweight, "dweight");
  Tensor dbias = call.gradient(bias, &args.dbias, "dbias");
  cpu::gelu_glu_backward(args, call.threads());
  return {dy, dweight, dbias};
}

}  // namespace
}  // namespace lyra::binding

STABLE_TORCH_LIBRARY_IMPL(lyra, CPU, m) {
  m.impl("gelu_glu", TORCH_BOX(&lyra::binding::gelu_glu));
  m.impl("gelu_glu_backward", TORCH_BOX(&lyra::binding::gelu_glu_backward));
}
