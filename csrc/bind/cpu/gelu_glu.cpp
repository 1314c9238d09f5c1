#include "cpu/gelu_glu.h"

#include "bind/cpu/call.h"

namespace lyra::binding {
namespace {

cpu::GeluGluArgs arguments(CpuCall& call, const Tensor& y, const Tensor& weight, const OptionalTensor& bias,
                           const OptionalTensor& mask, const OptionalTensor& residual, const OptionalTensor& lengths,
                           const OptionalTensor& cu_seqlens) {
  cpu::GeluGluArgs args;
  args.dtype = call.dtype();
  args.layout = call.layout(lengths, cu_seqlens);
  args.channels = y.size(2);
  args.y = call.activations(y, "y", args.channels);
  args.weight = call.parameter(weight, "weight", {2 * args.channels, args.channels});
  args.bias = call.parameter(bias, "bias", {2 * args.channels});
  args.mask = call.parameter(mask, "mask", {args.layout.sequences, args.channels});
  args.residual = call.activations(residual, "residual", args.channels);
  args.out = nullptr;
  return args;
}

Tensor gelu_glu(const Tensor& y, const Tensor& weight, const OptionalTensor& bias, const OptionalTensor& mask,
                const OptionalTensor& residual, const OptionalTensor& lengths, const OptionalTensor& cu_seqlens) {
  CpuCall call(y, "y");
  cpu::GeluGluArgs args = arguments(call, y, weight, bias, mask, residual, lengths, cu_seqlens);
  Tensor out = call.output_like(&args.out, "out", y);
  cpu::gelu_glu(args, call.threads());
  return out;
}

std::tuple<Tensor, Tensor, Tensor> gelu_glu_backward(const Tensor& grad, const Tensor& y, const Tensor& weight,
                                                     const OptionalTensor& bias, const OptionalTensor& mask,
                                                     const OptionalTensor& lengths,
                                                     const OptionalTensor& cu_seqlens) {
  CpuCall call(y, "y");
  cpu::GeluGluBackwardArgs args;
  args.forward = arguments(call, y, weight, bias, mask, std::nullopt, lengths, cu_seqlens);
  args.grad = call.activations(grad, "grad", args.forward.channels);
  Tensor dy = call.output_like(&args.dy, "dy", y);
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
