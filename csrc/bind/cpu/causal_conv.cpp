#include "cpu/causal_conv.h"

#include "bind/cpu/call.h"

namespace lyra::binding {
namespace {

cpu::CausalConvArgs arguments(CpuCall& call, const Tensor& u, const Tensor& kernel,
                              const OptionalTensor& reverse_kernel, const OptionalTensor& D,
                              const OptionalTensor& lengths, const OptionalTensor& cu_seqlens) {
  cpu::CausalConvArgs a;
  a.layout = call.layout(lengths, cu_seqlens);
  STD_TORCH_CHECK(kernel.dim() == 2, "kernel must be (channels, taps)");
  STD_TORCH_CHECK(!reverse_kernel || reverse_kernel->dim() == 2, "reverse_kernel must be (channels, taps)");
  a.dtype = call.dtype();
  a.channels = u.size(2);
  a.taps = kernel.size(1);
  a.reverse_taps = reverse_kernel ? reverse_kernel->size(1) : 0;
  a.u = call.activations(u, "u", a.channels, &a.order);
  a.kernel = call.parameter(kernel, "kernel", {a.channels, a.taps});
  a.reverse_kernel = call.parameter(reverse_kernel, "reverse_kernel", {a.channels, a.reverse_taps});
  a.D = call.parameter(D, "D", {a.channels});
  a.y = nullptr;
  return a;
}

Tensor causal_conv(const Tensor& u, const Tensor& kernel, const OptionalTensor& reverse_kernel,
                   const OptionalTensor& D, const OptionalTensor& lengths, const OptionalTensor& cu_seqlens) {
  CpuCall call(u, "u");
  cpu::CausalConvArgs a = arguments(call, u, kernel, reverse_kernel, D, lengths, cu_seqlens);
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
  b.forward = arguments(call, u, kernel, reverse_kernel, D, lengths, cu_seqlens);
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
