#include "cpu/short_conv.h"

#include "bind/cpu/call.h"

namespace lyra::binding {
namespace {

// Activations (batch, length, channels), contiguous or the transposed view of (batch, channels, length) memory.
bool lies_channels_first(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.dim() == 3, name, " must be (batch, length, channels)");
  return !x.is_contiguous() && torch::stable::transpose(x, 1, 2).is_contiguous();
}

const void* activations(CpuCall& call, const Tensor& x, const Tensor& like, const char* name) {
  if (!lies_channels_first(x, name)) return call.activations(x, name, like.size(2));
  return call.input(torch::stable::transpose(x, 1, 2), name, like.scalar_type(),
                    {like.size(0), like.size(2), like.size(1)});
}

// An output that lies as u does. No view of one that is contiguous: autograd lets nobody change that in place.
Tensor laid_out_like(void** pointer, const Tensor& u) {
  Tensor found = torch::stable::empty_like(u);
  *pointer = found.mutable_data_ptr();
  ask_for_large_pages(*pointer, found.numel() * found.element_size());
  return found;
}

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
  a.channels_first = lies_channels_first(u, "u");
  a.u = activations(call, u, u, "u");
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
  Tensor y = laid_out_like(&a.y, u);
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
  b.grad_channels_first = lies_channels_first(grad, "grad");
  b.grad = activations(call, grad, u, "grad");
  Tensor du = laid_out_like(&b.du, u);
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
