#include "bind/tensors.h"
#include "cpu/causal_conv.h"

namespace lyra::binding {
namespace {

cpu::CausalConvArgs arguments(const Tensor& u, const Tensor& kernel, const OptionalTensor& reverse_kernel,
                              const OptionalTensor& D, const OptionalTensor& lengths,
                              const OptionalTensor& cu_seqlens) {
  cpu::CausalConvArgs a;
  a.layout = layout_of(u, lengths, cu_seqlens);
  STD_TORCH_CHECK(u.is_contiguous(), "u must be contiguous");
  STD_TORCH_CHECK(kernel.dim() == 2, "kernel must be (channels, taps)");
  STD_TORCH_CHECK(!reverse_kernel || reverse_kernel->dim() == 2, "reverse_kernel must be (channels, taps)");
  const ScalarType type = compute_type(u);
  a.dtype = dtype_of(u, "u");
  a.channels = u.size(2);
  a.taps = kernel.size(1);
  a.reverse_taps = reverse_kernel ? reverse_kernel->size(1) : 0;
  a.u = u.const_data_ptr();
  a.kernel = input(kernel, "kernel", type, {a.channels, a.taps});
  a.reverse_kernel = input(reverse_kernel, "reverse_kernel", type, {a.channels, a.reverse_taps});
  a.D = input(D, "D", type, {a.channels});
  a.y = nullptr;
  return a;
}

Tensor causal_conv(const Tensor& u, const Tensor& kernel, const OptionalTensor& reverse_kernel,
                   const OptionalTensor& D, const OptionalTensor& lengths, const OptionalTensor& cu_seqlens) {
  cpu::CausalConvArgs a = arguments(u, kernel, reverse_kernel, D, lengths, cu_seqlens);
  Tensor y = new_like(u);
  a.y = y.mutable_data_ptr();
  cpu::causal_conv(a, torch_threads());
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> causal_conv_backward(const Tensor& grad, const Tensor& u,
                                                                const Tensor& kernel,
                                                                const OptionalTensor& reverse_kernel,
                                                                const OptionalTensor& D,
                                                                const OptionalTensor& lengths,
                                                                const OptionalTensor& cu_seqlens) {
  cpu::CausalConvBackwardArgs b;
  b.forward = arguments(u, kernel, reverse_kernel, D, lengths, cu_seqlens);
  const cpu::CausalConvArgs& a = b.forward;
  const ScalarType type = compute_type(u);
  b.grad = input(grad, "grad", u.scalar_type(), {u.size(0), u.size(1), u.size(2)});
  Tensor du = new_like(u);
  Tensor dkernel = new_tensor({a.channels, a.taps}, type);
  Tensor dreverse_kernel = reverse_kernel ? new_tensor({a.channels, a.reverse_taps}, type) : absent(type);
  Tensor dD = D ? new_tensor({a.channels}, type) : absent(type);
  b.du = du.mutable_data_ptr();
  b.dkernel = dkernel.mutable_data_ptr();
  b.dreverse_kernel = reverse_kernel ? dreverse_kernel.mutable_data_ptr() : nullptr;
  b.dD = D ? dD.mutable_data_ptr() : nullptr;
  cpu::causal_conv_backward(b, torch_threads());
  return {du, dkernel, dreverse_kernel, dD};
}

}  // namespace
}  // namespace lyra::binding

STABLE_TORCH_LIBRARY_IMPL(lyra, CPU, m) {
  m.impl("causal_conv", TORCH_BOX(&lyra::binding::causal_conv));
  m.impl("causal_conv_backward", TORCH_BOX(&lyra::binding::causal_conv_backward));
}
