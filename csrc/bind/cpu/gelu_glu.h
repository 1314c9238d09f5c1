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

}  // namespace lyra::binding
