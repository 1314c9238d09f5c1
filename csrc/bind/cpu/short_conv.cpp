#include "cpu/short_conv.h"

#include "bind/cpu/call.h"

namespace lyra::binding {
namespace {

Order order_of(const cpu::ShortConvArgs& a) { return a.channels_first ? Order::channels_first : Order::channels_last; }

cpu::ShortConvArgs arguments(CpuCall& call, const Tensor& u, const Tensor& weight, const OptionalTensor& bias,
                             const OptionalTensor& initial_state, const OptionalTensor& lengths,
                             const OptionalTensor& cu_seqlens, bool silu) {
  cpu::ShortConvArgs a;
  a.layout = call.layout(lengths, cu_seqlens);
  STD_TORCH_CHECK(weight.dim() == 2 && weight.size(1) >= 1, "weight must be (channels, taps) with a tap at least");
  a.dtype = call.dtype();
  a.channels = u.size(2);
  a.width = weight.size(1);
  a.silu = silu;
  Order order = Order::channels_last;
  a.u = call.activations(u, "u", a.channels, &order);
  a.channels_first = order == Order::channels_first;
  a.weight = call.parameter(weight, "weight", {a.channels, a.width});
  a.bias = call.parameter(bias, "bias", {a.channels});
  a.initial_state =
      call.parameter(initial_state, "initial_state", {a.layout.sequences, a.width - 1, a.channels});
  a.y = nullptr;
  return a;
}

Tensor short_conv(const Tensor& u, const Tensor& weight, const OptionalTensor& bias,
                  const OptionalTensor& initial_state, const OptionalTensor& lengths,
                  const OptionalTensor& cu_seqlens, bool silu) {
  CpuCall call(u, "u");
  cpu::ShortConvArgs a = arguments(call, u, weight, bias, initial_state, lengths, cu_seqlens, silu);
  Tensor y = call.output_like(&a.y, "y", u, order_of(a));
  cpu::short_conv(a, call.threads());
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> short_conv_backward(const Tensor& grad, const Tensor& u,
                                                               const Tensor& weight, const OptionalTensor& bias,
                                                               const OptionalTensor& initial_state,
                                                               const OptionalTensor& lengths,
                                                               const OptionalTensor& cu_seqlens, bool silu) {
  CpuCall call(u, "u");
  cpu::ShortConvBackwardArgs b;
  b.forward = arguments(call, u, weight, bias, initial_state, lengths, cu_seqlens, silu);
  Order order = Order::channels_last;
  b.grad = call.activations(grad, "grad", b.forward.channels, &order);
  b.grad_channels_first = order == Order::channels_first;
  Tensor du = call.output_like(&b.du, "du", u, order_of(b.forward));
  Tensor dweight = call.gradient(weight, &b.dweight, "dweight");
  Tensor dbias = call.gradient(bias, &b.dbias, "dbias");
  Tensor dinitial_state = call.gradient(initial_state, &b.dinitial_state, "dinitial_state");
  cpu::short_conv_backward(b, call.threads());
  return {du, dweight, dbias, dinitial_state};
}

}  // namespace
}  // namespace lyra::binding

STABLE_TORCH_LIBRARY_IMPL(lyra, CPU, m) {
  m.impl("short_conv", TORCH_BOX(&lyra::binding::short_conv));
  m.impl("short_conv_backward", TORCH_BOX(&lyra::binding::short_conv_backward));
}
