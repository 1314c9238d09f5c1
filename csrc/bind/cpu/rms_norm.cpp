#include "bind/tensors.h"
#include "cpu/rms_norm.h"

namespace lyra::binding {
namespace {

cpu::RmsNormArgs arguments(const Tensor& x, const OptionalTensor& weight, double eps) {
  STD_TORCH_CHECK(x.dim() >= 1, "x must have at least one dimension");
  STD_TORCH_CHECK(x.is_contiguous(), "x must be contiguous");
  const int64_t channels = x.size(x.dim() - 1);
  cpu::RmsNormArgs args;
  args.dtype = dtype_of(x, "x");
  args.channels = channels;
  args.rows = channels ? x.numel() / channels : 0;
  args.x = x.const_data_ptr();
  args.weight = input(weight, "weight", compute_type(x), {channels});
  args.eps = eps;
  args.y = nullptr;
  return args;
}

Tensor rms_norm(const Tensor& x, const OptionalTensor& weight, double eps) {
  cpu::RmsNormArgs args = arguments(x, weight, eps);
  Tensor y = new_like(x);
  args.y = y.mutable_data_ptr();
  cpu::rms_norm(args, torch_threads());
  return y;
}

std::tuple<Tensor, Tensor> rms_norm_backward(const Tensor& grad, const Tensor& x, const OptionalTensor& weight,
                                             double eps) {
  cpu::RmsNormBackwardArgs args;
  args.forward = arguments(x, weight, eps);
  STD_TORCH_CHECK(grad.is_contiguous() && grad.numel() == x.numel() && grad.scalar_type() == x.scalar_type(),
                  "grad must be contiguous and like x");
  Tensor dx = new_like(x);
  Tensor dweight = weight ? new_tensor({args.forward.channels}, compute_type(x)) : absent(compute_type(x));
  args.grad = grad.const_data_ptr();
  args.dx = dx.mutable_data_ptr();
  args.dweight = weight ? dweight.mutable_data_ptr() : nullptr;
  cpu::rms_norm_backward(args, torch_threads());
  return {dx, dweight};
}

}  // namespace
}  // namespace lyra::binding

STABLE_TORCH_LIBRARY_IMPL(lyra, CPU, m) {
  m.impl("rms_norm", TORCH_BOX(&lyra::binding::rms_norm));
  m.impl("rms_norm_backward", TORCH_BOX(&lyra::binding::rms_norm_backward));
}
