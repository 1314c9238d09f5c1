#include "bind/tensors.h"
#include "cpu/pgc.h"

namespace lyra::binding {
namespace {

cpu::PgcArgs arguments(const Tensor& u, const Tensor& in_weight, const OptionalTensor& in_bias,
                       const OptionalTensor& in_norm_weight, const Tensor& conv_weight,
                       const OptionalTensor& conv_bias, const Tensor& out_weight, const OptionalTensor& out_bias,
                       const OptionalTensor& out_norm_weight, const OptionalTensor& lengths,
                       const OptionalTensor& cu_seqlens, double eps, bool causal) {
  STD_TORCH_CHECK(u.dim() == 3 && u.is_contiguous(), "u must be contiguous, (batch, length, d_model)");
  STD_TORCH_CHECK(conv_weight.dim() == 3 && conv_weight.size(2) >= 1, "conv_weight must be (channels, 1, width)");
  STD_TORCH_CHECK(out_weight.dim() == 2, "out_weight must be (d_out, channels)");
  const ScalarType compute = compute_type(u);
  cpu::PgcArgs args;
  args.dtype = dtype_of(u, "u");
  args.layout = layout_of(u, lengths, cu_seqlens);
  args.in = u.size(2);
  args.channels = conv_weight.size(0);
  args.out = out_weight.size(0);
  args.width = conv_weight.size(2);
  args.causal = causal;
  args.eps = eps;
  args.u = u.const_data_ptr();
  args.in_weight = input(in_weight, "in_weight", compute, {2 * args.channels, args.in});
  args.in_bias = input(in_bias, "in_bias", compute, {2 * args.channels});
  args.in_norm_weight = input(in_norm_weight, "in_norm_weight", compute, {2 * args.channels});
  args.conv_weight = input(conv_weight, "conv_weight", compute, {args.channels, 1, args.width});
  args.conv_bias = input(conv_bias, "conv_bias", compute, {args.channels});
  args.out_weight = input(out_weight, "out_weight", compute, {args.out, args.channels});
  args.out_bias = input(out_bias, "out_bias", compute, {args.out});
  args.out_norm_weight = input(out_norm_weight, "out_norm_weight", compute, {args.out});
  args.y = nullptr;
  return args;
}

Tensor pgc(const Tensor& u, const Tensor& in_weight, const OptionalTensor& in_bias,
           const OptionalTensor& in_norm_weight, const Tensor& conv_weight, const OptionalTensor& conv_bias,
           const Tensor& out_weight, const OptionalTensor& out_bias, const OptionalTensor& out_norm_weight,
           const OptionalTensor& lengths, const OptionalTensor& cu_seqlens, double eps, bool causal) {
  cpu::PgcArgs args = arguments(u, in_weight, in_bias, in_norm_weight, conv_weight, conv_bias, out_weight, out_bias,
                                out_norm_weight, lengths, cu_seqlens, eps, causal);
  Tensor y = new_tensor({u.size(0), u.size(1), args.out}, u.scalar_type());
  args.y = y.mutable_data_ptr();
  cpu::pgc(args, torch_threads());
  return y;
}

// An uninitialised gradient for a parameter, and its pointer.
Tensor gradient(const Tensor& parameter, void** pointer) {
  Tensor g = new_like(parameter);
  *pointer = g.mutable_data_ptr();
  return g;
}
Tensor gradient(const OptionalTensor& parameter, ScalarType compute, void** pointer) {
  *pointer = nullptr;
  return parameter ? gradient(*parameter, pointer) : absent(compute);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> pgc_backward(
    const Tensor& grad, const Tensor& u, const Tensor& in_weight, const OptionalTensor& in_bias,
    const OptionalTensor& in_norm_weight, const Tensor& conv_weight, const OptionalTensor& conv_bias,
    const Tensor& out_weight, const OptionalTensor& out_bias, const OptionalTensor& out_norm_weight,
    const OptionalTensor& lengths, const OptionalTensor& cu_seqlens, double eps, bool causal) {
  cpu::PgcBackwardArgs args;
  args.forward = arguments(u, in_weight, in_bias, in_norm_weight, conv_weight, conv_bias, out_weight, out_bias,
                           out_norm_weight, lengths, cu_seqlens, eps, causal);
  const ScalarType compute = compute_type(u);
  args.grad = input(grad, "grad", u.scalar_type(), {u.size(0), u.size(1), args.forward.out});
  Tensor du = gradient(u, &args.du);
  Tensor din_weight = gradient(in_weight, &args.din_weight);
  Tensor din_bias = gradient(in_bias, compute, &args.din_bias);
  Tensor din_norm_weight = gradient(in_norm_weight, compute, &args.din_norm_weight);
  Tensor dconv_weight = gradient(conv_weight, &args.dconv_weight);
  Tensor dconv_bias = gradient(conv_bias, compute, &args.dconv_bias);
  Tensor dout_weight = gradient(out_weight, &args.dout_weight);
  Tensor dout_bias = gradient(out_bias, compute, &args.dout_bias);
  Tensor dout_norm_weight = gradient(out_norm_weight, compute, &args.dout_norm_weight);
  cpu::pgc_backward(args, torch_threads());
  return {du,         din_weight,  din_bias,  din_norm_weight, dconv_weight,
          dconv_bias, dout_weight, dout_bias, dout_norm_weight};
}

}  // namespace
}  // namespace lyra::binding

STABLE_TORCH_LIBRARY_IMPL(lyra, CPU, m) {
  m.impl("pgc", TORCH_BOX(&lyra::binding::pgc));
  m.impl("pgc_backward", TORCH_BOX(&lyra::binding::pgc_backward));
}
