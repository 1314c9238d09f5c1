#include "cpu/gated_conv.h"

#include "bind/cpu/call.h"

namespace lyra::binding {
namespace {

cpu::GatedConvArgs arguments(CpuCall& call, const Tensor& xv, const Tensor& conv_weight,
                             const OptionalTensor& conv_bias, const OptionalTensor& norm_weight,
                             const OptionalTensor& lengths, const OptionalTensor& cu_seqlens, double eps,
                             bool causal) {
  STD_TORCH_CHECK(conv_weight.dim() == 3 && conv_weight.size(2) >= 1, "conv_weight must be (channels, 1, width)");
  const int64_t channels = conv_weight.size(0), width = conv_weight.size(2);
  cpu::GatedConvArgs args;
  args.dtype = call.dtype();
  args.layout = call.layout(lengths, cu_seqlens);
  args.channels = channels;
  args.width = width;
  args.causal = causal;
  args.eps = eps;
  args.xv = call.activations(xv, "xv", 2 * channels);
  args.conv_weight = call.parameter(conv_weight, "conv_weight", {channels, 1, width});
  args.conv_bias = call.parameter(conv_bias, "conv_bias", {channels});
  args.norm_weight = call.parameter(norm_weight, "norm_weight", {2 * channels});
  args.y = nullptr;
  return args;
}

Tensor gated_conv(const Tensor& xv, const Tensor& conv_weight, const OptionalTensor& conv_bias,
                  const OptionalTensor& norm_weight, const OptionalTensor& lengths, const OptionalTensor& cu_seqlens,
                  double eps, bool causal) {
  CpuCall call(xv, "xv");
  cpu::GatedConvArgs args =
      arguments(call, xv, conv_weight, conv_bias, norm_weight, lengths, cu_seqlens, eps, causal);
  Tensor y = call.output(&args.y, "y", xv.scalar_type(), {xv.size(0), xv.size(1), args.channels});
  cpu::gated_conv(args, call.threads());
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> gated_conv_backward(
    const Tensor& grad, const Tensor& xv, const Tensor& conv_weight, const OptionalTensor& conv_bias,
    const OptionalTensor& norm_weight, const OptionalTensor& lengths, const OptionalTensor& cu_seqlens, double eps,
    bool causal) {
  CpuCall call(xv, "xv");
  cpu::GatedConvBackwardArgs args;
  args.forward = arguments(call, xv, conv_weight, conv_bias, norm_weight, lengths, cu_seqlens, eps, causal);
  args.grad = call.activations(grad, "grad", args.forward.channels);
  Tensor dxv = call.output_like(&args.dxv, "dxv", xv);
  Tensor dconv_weight = call.gradient(conv_weight, &args.dconv_weight, "dconv_weight");
  Tensor dconv_bias = call.gradient(conv_bias, &args.dconv_bias, "dconv_bias");
  Tensor dnorm_weight = call.gradient(norm_weight, &args.dnorm_weight, "dnorm_weight");
  cpu::gated_conv_backward(args, call.threads());
  return {dxv, dconv_weight, dconv_bias, dnorm_weight};
}

}  // namespace
}  // namespace lyra::binding

STABLE_TORCH_LIBRARY_IMPL(lyra, CPU, m) {
  m.impl("gated_conv", TORCH_BOX(&lyra::binding::gated_conv));
  m.impl("gated_conv_backward", TORCH_BOX(&lyra::binding::gated_conv_backward));
}
