// The arguments of S4D's tail, from tensors.
#pragma once

#include "bind/cpu/call.h"
#include "cpu/gelu_glu.h"

namespace lyra::binding {

inline cpu::GeluGluArgs gelu_glu_arguments(CpuCall& call, const Tensor& y, const Tensor& weight,
                                           const OptionalTensor& bias, const OptionalTensor& mask,
                                           const OptionalTensor& residual, const OptionalTensor& lengths,
                                           const OptionalTensor& cu_seqlens) {
  cpu::GeluGluArgs args;
  args.dtype = call.dtype();
  args.layout = call.layout(lengths, cu_seqlens);
  args.channels = y.size(2);
  args.y = call.activations(y, "y", args.channels, &args.order);
  args.out_order = args.order;
  args.weight = call.parameter(weight, "weight", {2 * args.channels, args.channels});
  args.bias = call.parameter(bias, "bias", {2 * args.channels});
  args.mask = call.parameter(mask, "mask", {args.layout.sequences, args.channels});
  args.residual = call.activations(residual, "residual", args.channels, &args.residual_order);
  args.out = nullptr;
  return args;
}

// S4D's tail of y. The result lies in memory as `like` does, whose order that is, or as y.
inline Tensor tail_of(const Tensor& y, const Tensor& weight, const OptionalTensor& bias, const OptionalTensor& mask,
                      const OptionalTensor& residual, const OptionalTensor& lengths, const OptionalTensor& cu_seqlens,
                      const OptionalTensor& like = std::nullopt, Order order = Order::channels_last) {
  CpuCall call(y, "y");
  cpu::GeluGluArgs args = gelu_glu_arguments(call, y, weight, bias, mask, residual, lengths, cu_seqlens);
  if (like) args.out_order = order;
  Tensor out = call.output_like(&args.out, "out", like ? *like : y, args.out_order);
  cpu::gelu_glu(args, call.threads());
  return out;
}

}  // namespace lyra::binding
