#include "cpu/pgc.h"

#include "bind/cpu/call.h"

namespace lyra::binding {
namespace {

cpu::PgcArgs arguments(CpuCall& call, const Tensor& u, const Tensor& in_weight, const OptionalTensor& in_bias,
                       const OptionalTensor& in_norm_weight, const Tensor& conv_weight,
                       const OptionalTensor& conv_bias, const Tensor& out_weight, const OptionalTensor& out_bias,
                       const OptionalTensor& out_norm_weight, const OptionalTensor& residual,
                       const OptionalTensor& lengths, const OptionalTensor& cu_seqlens, double eps, bool causal) {
  STD_TORCH_CHECK(conv_weight.dim() == 3 && conv_weight.size(2) >= 1, "conv_weight must be (channels, 1, width)");
  STD_TORCH_CHECK(out_weight.dim() == 2, "out_weight must be (d_out, channels)");
  cpu::PgcArgs args;
  args.dtype = call.dtype();
  args.layout = call.layout(lengths, cu_seqlens);
  args.in = u.size(2);
  args.channels = conv_weight.size(0);
  args.out = out_weight.size(0);
  args.width = conv_weight.size(2);
  args.causal = causal;
  args.eps = eps;
  args.u = call.activations(u, "u", args.in);
  args.in_weight = call.parameter(in_weight, "in_weight", {2 * args.channels, args.in});
  args.in_bias = call.parameter(in_bias, "in_bias", {2 * args.channels});
  args.in_norm_weight = call.parameter(in_norm_weight, "in_norm_weight", {2 * args.channels});
  args.conv_weight = call.parameter(conv_weight, "conv_weight", {args.channels, 1, args.width});
  args.conv_bias = call.parameter(conv_bias, "conv_bias", {args.channels});
  args.out_weight = call.parameter(out_weight, "out_weight", {args.out, args.channels});
  args.out_bias = call.parameter(out_bias, "out_bias", {args.out});
  args.out_norm_weight = call.parameter(out_norm_weight, "out_norm_weight", {args.out});
  args.residual = call.activations(residual, "residual", args.out);
  args.y = nullptr;
  return args;
}

Tensor pgc(const Tensor& u, const Tensor& in_weight, const OptionalTensor& in_bias,
           const OptionalTensor& in_norm_weight, const Tensor& conv_weight, const OptionalTensor& conv_bias,
           const Tensor& out_weight, const OptionalTensor& out_bias, const OptionalTensor& out_norm_weight,
           const OptionalTensor& residual, const OptionalTensor& lengths, const OptionalTensor& cu_seqlens, double eps,
           bool causal) {
  CpuCall call(u, "u");
  cpu::PgcArgs args = arguments(call, u, in_weight, in_bias, in_norm_weight, conv_weight, conv_bias, out_weight,
                                out_bias, out_norm_weight, residual, lengths, cu_seqlens, eps, causal);
  Tensor y = call.output(&args.y, "y", u.scalar_type(), {u.size(0), u.size(1), args.out});
  cpu::pgc(args, call.threads());
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> pgc_backward(
    const Tensor& grad, const Tensor& u, const Tensor& in_weight, const OptionalTensor& in_bias,
    const OptionalTensor& in_norm_weight, const Tensor& conv_weight, const OptionalTensor& conv_bias,
    const Tensor& out_weight, const OptionalTensor& out_bias, const OptionalTensor& out_norm_weight,
    const OptionalTensor& lengths, const OptionalTensor& cu_seqlens, double eps, bool causal) {
  CpuCall call(u, "u");
  cpu::PgcBackwardArgs args;
  args.forward = arguments(call, u, in_weight, in_bias, in_norm_weight, conv_weight, conv_bias, out_weight, out_bias,
                           out_norm_weight, std::nullopt, lengths, cu_seqlens, eps, causal);
  args.grad = call.activations(grad, "grad", args.forward.out);
  Tensor du = call.output_like(&args.du, "du", u);
  Tensor din_weight = call.gradient(in_weight, &args.din_weight, "din_weight");
  Tensor din_bias = call.gradient(in_bias, &args.din_bias, "din_bias");
  Tensor din_norm_weight = call.gradient(in_norm_weight, &args.din_norm_weight, "din_norm_weight");
  Tensor dconv_weight = call.gradient(conv_weight, &args.dconv_weight, "dconv_weight");
  Tensor dconv_bias = call.gradient(conv_bias, &args.dconv_bias, "dconv_bias");
  Tensor dout_weight = call.gradient(out_weight, &args.dout_weight, "dout_weight");
  Tensor dout_bias = call.gradient(out_bias, &args.dout_bias, "dout_bias");
  Tensor dout_norm_weight = call.gradient(out_norm_weight, &args.dout_norm_weight, "dout_norm_weight");
  cpu::pgc_backward(args, call.threads());
  return {du,         din_weight,  din_bias,  din_norm_weight, dconv_weight,
          dconv_bias, dout_weight, dout_bias, dout_norm_weight};
}

}  // namespace
}  // namespace lyra::binding

STABLE_TORCH_LIBRARY_IMPL(lyra, CPU, m) {
  m.impl("pgc", TORCH_BOX(&lyra::binding::pgc));
  m.impl("pgc_backward", TORCH_BOX(&lyra::binding::pgc_backward));
}
