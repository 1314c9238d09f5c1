#include "bind/tensors.h"
#include "cpu/gelu_glu.h"

namespace lyra::binding {
namespace {

cpu::GeluGluArgs arguments(const Tensor& y, const Tensor& weight, const OptionalTensor& bias,
                           const OptionalTensor& mask, const OptionalTensor& residual, const OptionalTensor& lengths,
                           const OptionalTensor& cu_seqlens) {
  STD_TORCH_CHECK(y.dim() == 3 && y.is_contiguous(), "y must be contiguous, (batch, length, channels)");
  const ScalarType compute = compute_type(y);
  cpu::GeluGluArgs args;
  args.dtype = dtype_of(y, "y");
  args.layout = layout_of(y, lengths, cu_seqlens);
  args.channels = y.size(2);
  args.y = y.const_data_ptr();
  args.weight = input(weight, "weight", compute, {2 * args.channels, args.channels});
  args.bias = input(bias, "bias", compute, {2 * args.channels});
  args.mask = input(mask, "mask", compute, {args.layout.sequences, args.channels});
  args.residual = input(residual, "residual", y.scalar_type(), {y.size(0), y.size(1), y.size(2)});
  args.out = nullptr;
  return args;
}

Tensor gelu_glu(const Tensor& y, const Tensor& weight, const OptionalTensor& bias, const OptionalTensor& mask,
                const OptionalTensor& residual, const OptionalTensor& lengths, const OptionalTensor& cu_seqlens) {
  cpu::GeluGluArgs args = arguments(y, weight, bias, mask, residual, lengths, cu_seqlens);
  Tensor out = new_like(y);
  args.out = out.mutable_data_ptr();
  cpu::gelu_glu(args, torch_threads());
  return out;
}

std::tuple<Tensor, Tensor, Tensor> gelu_glu_backward(const Tensor& grad, const Tensor& y, const Tensor& weight,
                                                     const OptionalTensor& bias, const OptionalTensor& mask,
                                                     const OptionalTensor& lengths,
                                                     const OptionalTensor& cu_seqlens) {
  cpu::GeluGluBackwardArgs args;
  args.forward = arguments(y, weight, bias, mask, std::nullopt, lengths, cu_seqlens);
  args.grad = input(grad, "grad", y.scalar_type(), {y.size(0), y.size(1), y.size(2)});
  Tensor dy = new_like(y);
  Tensor dweight = new_like(weight);
  Tensor dbias = bias ? new_like(*bias) : absent(compute_type(y));
  args.dy = dy.mutable_data_ptr();
  args.dweight = dweight.mutable_data_ptr();
  args.dbias = bias ? dbias.mutable_data_ptr() : nullptr;
  cpu::gelu_glu_backward(args, torch_threads());
  return {dy, dweight, dbias};
}

}  // namespace
}  // namespace lyra::binding

STABLE_TORCH_LIBRARY_IMPL(lyra, CPU, m) {
  m.impl("gelu_glu", TORCH_BOX(&lyra::binding::gelu_glu));
  m.impl("gelu_glu_backward", TORCH_BOX(&lyra::binding::gelu_glu_backward));
}
