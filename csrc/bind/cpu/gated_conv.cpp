#include "bind/tensors.h"
#include "cpu/gated_conv.h"

namespace lyra::binding {
namespace {

cpu::GatedConvArgs arguments(const Tensor& xv, const Tensor& conv_weight, const OptionalTensor& conv_bias,
                             const OptionalTensor& norm_weight, const OptionalTensor& lengths,
                             const OptionalTensor& cu_seqlens, double eps, bool causal) {
  STD_TORCH_CHECK(xv.dim() == 3 && xv.is_contiguous(), "xv must be contiguous, (batch, length, 2 channels)");
  STD_TORCH_CHECK(conv_weight.dim() == 3 && conv_weight.size(2) >= 1, "conv_weight must be (channels, 1, width)");
  const int64_t channels = conv_weight.size(0), width = conv_weight.size(2);
  STD_TORCH_CHECK(xv.size(2) == 2 * channels, "xv must have ", 2 * channels, " channels, not ", xv.size(2));
  cpu::GatedConvArgs args;
  args.dtype = dtype_of(xv, "xv");
  args.layout = layout_of(xv, lengths, cu_seqlens);
  args.channels = channels;
  args.width = width;
  args.causal = causal;
  args.eps = eps;
  args.xv = xv.const_data_ptr();
  args.conv_weight = input(conv_weight, "conv_weight", compute_type(xv), {channels, 1, width});
  args.conv_bias = input(conv_bias, "conv_bias", compute_type(xv), {channels});
  args.norm_weight = input(norm_weight, "norm_weight", compute_type(xv), {2 * channels});
  args.y = nullptr;
  return args;
}

Tensor gated_conv(const Tensor& xv, const Tensor& conv_weight, const OptionalTensor& conv_bias,
                  const OptionalTensor& norm_weight, const OptionalTensor& lengths, const OptionalTensor& cu_seqlens,
                  double eps, bool causal) {
  cpu::GatedConvArgs args =
      arguments(xv, conv_weight, conv_bias, norm_weight, lengths, cu_seqlens, eps, causal);
  Tensor y = new_tensor({xv.size(0), xv.size(1), args.channels}, xv.scalar_type());
  args.y = y.mutable_data_ptr();
  cpu::gated_conv(args, torch_threads());
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> gated_conv_backward(
    const Tensor& grad, const Tensor& xv, const Tensor& conv_weight, const OptionalTensor& conv_bias,
    const OptionalTensor& norm_weight, const OptionalTensor& lengths, const OptionalTensor& cu_seqlens, double eps,
    bool causal) {
  cpu::GatedConvBackwardArgs args;
  args.forward = arguments(xv, conv_weight, conv_bias, norm_weight, lengths, cu_seqlens, eps, causal);
  const int64_t channels = args.forward.channels;
  const ScalarType compute = compute_type(xv);
  args.grad = input(grad, "grad", xv.scalar_type(), {xv.size(0), xv.size(1), channels});
  Tensor dxv = new_like(xv);
  Tensor dconv_weight = new_like(conv_weight);
  Tensor dconv_bias = conv_bias ? new_tensor({channels}, compute) : absent(compute);
  Tensor dnorm_weight = norm_weight ? new_tensor({2 * channels}, compute) : absent(compute);
  args.dxv = dxv.mutable_data_ptr();
  args.dconv_weight = dconv_weight.mutable_data_ptr();
  args.dconv_bias = conv_bias ? dconv_bias.mutable_data_ptr() : nullptr;
  args.dnorm_weight = norm_weight ? dnorm_weight.mutable_data_ptr() : nullptr;
  cpu::gated_conv_backward(args, torch_threads());
  return {dxv, dconv_weight, dconv_bias, dnorm_weight};
}

}  // namespace
}  // namespace lyra::binding

STABLE_TORCH_LIBRARY_IMPL(lyra, CPU, m) {
  m.impl("gated_conv", TORCH_BOX(&lyra::binding::gated_conv));
  m.impl("gated_conv_backward", TORCH_BOX(&lyra::binding::gated_conv_backward));
}
