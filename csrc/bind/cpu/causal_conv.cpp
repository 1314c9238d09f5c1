#include "bind/cpu/causal_conv.h"

namespace lyra::binding {
namespace {

Tensor causal_conv(const Tensor& u, const Tensor& kernel, const OptionalTensor& reverse_kernel,
                   const OptionalTensor& D, const OptionalTensor& lengths, const OptionalTensor& cu_seqlens) {
  CpuCall call(u, "u");
  cpu::CausalConvArgs a;
  fill(a, call, u, kernel, reverse_kernel, D, lengths, cu_seqlens);
  Tensor y = call.output_like(&a.y, "y", u, a.order);
  cpu::causal_conv(a, call.threads());
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> causal_conv_backward(const Tensor& grad, const Tensor& u,
                                                                const Tensor& kernel,
                                                                const OptionalTensor& reverse_kernel,
                                                                const OptionalTensor& D,
                                                                const OptionalTensor& lengths,
                                                                const OptionalTensor& cu_seqlens) {
  CpuCall call(u, "u");
  cpu::CausalConvBackwardArgs b;
  fill(b.forward, call, u, kernel, reverse_kernel, D, lengths, cu_seqlens);
  b.grad = call.activations(grad, "grad", b.forward.channels, &b.grad_order);
  Tensor du = call.output_like(&b.du, "du", u, b.forward.order);
  Tensor dkernel = call.gradient(kernel, &b.dkernel, "dkernel");
  Tensor dreverse_kernel = call.gradient(reverse_kernel, &b.dreverse_kernel, "dreverse_kernel");
  Tensor dD = call.gradient(D, &b.dD, "dD");
  cpu::causal_conv_backward(b, call.threads());
  return {du, dkernel, dreverse_kernel, dD};
}

}  // namespace
}  // namespace lyra::binding

STABLE_TORCH_LIBRARY_IMPL(lyra, CPU, m) {
  m.impl("causal_conv", TORCH_BOX(&lyra::binding::causal_conv));
  m.impl("causal_conv_backward", TORCH_BOX(&lyra::binding::causal_conv_backward));
}
