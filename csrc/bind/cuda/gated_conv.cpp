#include "cuda/gated_conv.h"

#include "bind/cuda/call.h"

namespace lyra::binding {
namespace {

cuda::GatedConvArgs arguments(CudaCall& call, const Tensor& xv, const Tensor& conv_weight,
                              const OptionalTensor& conv_bias, const OptionalTensor& norm_weight,
                              const OptionalTensor& lengths, const OptionalTensor& cu_seqlens, double eps,
                              bool causal) {
  STD_TORCH_CHECK(conv_weight.dim() == 3 && conv_weight.size(2) >= 1, "conv_weight must be (channels, 1, width)");
  const int64_t channels = conv_weight.size(0), width = conv_weight.size(2);
  cuda::GatedConvArgs args;
  args.dtype = call.dtype();
  args.layout = call.layout(lengths, cu_seqlens);
  args.channels = channels;
  args.width = static_cast<int>(width);
  args.causal = causal;
  args.eps = eps;
  args.xv = call.activations(xv, "xv", 2 * channels);
  args.conv_weight = call.parameter(conv_weight, "conv_weight", {channels, 1, width});
  args.conv_bias = call.parameter(conv_bias, "conv_bias", {channels});
  args.norm_weight = call.parameter(norm_weight, "norm_weight", {2 * channels});
  args.out = nullptr;
  args.stream = call.stream();
  return args;
}

Tensor gated_conv(const Tensor& xv, const Tensor& conv_weight, const OptionalTensor& conv_bias,
                  const OptionalTensor& norm_weight, const OptionalTensor& lengths, const OptionalTensor& cu_seqlens,
                  double eps, bool causal) {
  CudaCall call(xv, "xv");
  cuda::GatedConvArgs args =
      arguments(call, xv, conv_weight, conv_bias, norm_weight, lengths, cu_seqlens, eps, causal);
  Tensor out = call.output(&args.out, "out", xv.scalar_type(), {xv.size(0), xv.size(1), args.channels});
  cuda::gated_conv(args);
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> gated_conv_backward(
    const Tensor& grad, const Tensor& xv, const Tensor& conv_weight, const OptionalTensor& conv_bias,
    const OptionalTensor& norm_weight, const OptionalTensor& lengths, const OptionalTensor& cu_seqlens, double eps,
    bool causal) {
  CudaCall call(xv, "xv");
  cuda::GatedConvBackwardArgs args;
  args.forward = arguments(call, xv, conv_weight, conv_bias, norm_weight, lengths, cu_seqlens, eps, causal);
  args.grad = call.activations(grad, "grad", args.forward.channels);
  Tensor dxv = call.output_like(&args.dxv, "dxv", xv);
  Tensor dweight = call.gradient(conv_weight, &args.dconv_weight, "dconv_weight");
  Tensor dbias = call.gradient(conv_bias, &args.dconv_bias, "dconv_bias");
  Tensor dnorm = call.gradient(norm_weight, &args.dnorm_weight, "dnorm_weight");
  Tensor workspace = call.workspace(&args.workspace, cuda::gated_conv_backward_workspace(args.forward));
  cuda::gated_conv_backward(args);
  return {dxv, dweight, dbias, dnorm};
}

}  // namespace
}  // namespace lyra::binding

#define GATED_ARGUMENTS                                                                                 \
  "Tensor xv, Tensor conv_weight, Tensor? conv_bias, Tensor? norm_weight, Tensor? lengths, "            \
  "Tensor? cu_seqlens, float eps, bool causal"

STABLE_TORCH_LIBRARY_FRAGMENT(LYRA_CUDA_LIBRARY, m) {
  m.def("gated_conv(" GATED_ARGUMENTS ") -> Tensor");
  m.def("gated_conv_backward(Tensor grad, " GATED_ARGUMENTS ") -> (Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(LYRA_CUDA_LIBRARY, LYRA_CUDA_KEY, m) {
  m.impl("gated_conv", TORCH_BOX(&lyra::binding::gated_conv));
  m.impl("gated_conv_backward", TORCH_BOX(&lyra::binding::gated_conv_backward));
}
