#include "cpu/fft_conv.h"

#include "bind/cpu/causal_conv.h"
#include "bind/cpu/shared_ops.h"
#include "bind/in_python.h"

namespace lyra::binding {
namespace {

cpu::FftConvArgs arguments(CpuCall& call, const Tensor& u, const Tensor& kernel, const OptionalTensor& reverse_kernel,
                           const OptionalTensor& D, const OptionalTensor& pregate, const OptionalTensor& postgate,
                           const OptionalTensor& lengths, const OptionalTensor& cu_seqlens) {
  cpu::FftConvArgs a;
  fill(a, call, u, kernel, reverse_kernel, D, lengths, cu_seqlens);
  a.pregate = call.activations(pregate, "pregate", a.channels, &a.pregate_order);
  a.postgate = call.activations(postgate, "postgate", a.channels, &a.postgate_order);
  return a;
}

Tensor gated_fft_conv(const Tensor& u, const Tensor& kernel, const OptionalTensor& reverse_kernel,
                      const OptionalTensor& D, const OptionalTensor& pregate, const OptionalTensor& postgate,
                      const OptionalTensor& lengths, const OptionalTensor& cu_seqlens) {
  CpuCall call(u, "u");
  cpu::FftConvArgs a = arguments(call, u, kernel, reverse_kernel, D, pregate, postgate, lengths, cu_seqlens);
  Tensor y = call.output_like(&a.y, "y", u, a.order);
  cpu::fft_conv(a, call.threads());
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> gated_fft_conv_backward(
    const Tensor& grad, const Tensor& u, const Tensor& kernel, const OptionalTensor& reverse_kernel,
    const OptionalTensor& D, const OptionalTensor& pregate, const OptionalTensor& postgate,
    const OptionalTensor& lengths, const OptionalTensor& cu_seqlens) {
  CpuCall call(u, "u");
  cpu::FftConvBackwardArgs b;
  cpu::FftConvArgs& a = b.forward;
  a = arguments(call, u, kernel, reverse_kernel, D, pregate, postgate, lengths, cu_seqlens);
  b.grad = call.activations(grad, "grad", a.channels, &b.grad_order);
  Tensor du = call.output_like(&b.du, "du", u, a.order);
  Tensor dkernel = call.gradient(kernel, &b.dkernel, "dkernel");
  Tensor dreverse_kernel = call.gradient(reverse_kernel, &b.dreverse_kernel, "dreverse_kernel");
  Tensor dD = call.gradient(D, &b.dD, "dD");
  const auto like = [&](const OptionalTensor& gate, void** pointer, const char* name, Order order) {
    return gate ? call.output_like(pointer, name, *gate, order) : call.gradient(gate, pointer, name);
  };
  Tensor dpregate = like(pregate, &b.dpregate, "dpregate", a.pregate_order);
  Tensor dpostgate = like(postgate, &b.dpostgate, "dpostgate", a.postgate_order);
  cpu::fft_conv_backward(b, call.threads());
  return {du, dkernel, dreverse_kernel, dD, dpregate, dpostgate};
}

Tensor fft_conv(const Tensor& u, const Tensor& kernel, const OptionalTensor& reverse_kernel, const OptionalTensor& D,
                const OptionalTensor& lengths, const OptionalTensor& cu_seqlens) {
  return gated_fft_conv(u, kernel, reverse_kernel, D, std::nullopt, std::nullopt, lengths, cu_seqlens);
}

Tensor s4d_fft(const Tensor& u, const Tensor& log_dt, const Tensor& log_A_real, const Tensor& A_imag, const Tensor& C,
               const OptionalTensor& D, const OptionalTensor& lengths, const OptionalTensor& cu_seqlens) {
  STD_TORCH_CHECK(C.dim() == 4 && (C.size(0) == 1 || C.size(0) == 2), "C must be (1 or 2, channels, modes, 2)");
  Tensor all = C;
  const auto kernel = [&](int64_t direction) {
    Tensor one = torch::stable::narrow(all, 0, direction, 1);
    one = torch::stable::view(one, {C.size(1), C.size(2), 2});
    return s4d_kernel<Cpu>(log_dt, log_A_real, A_imag, one, u.size(1));
  };
  return fft_conv(u, kernel(0), C.size(0) == 2 ? OptionalTensor(kernel(1)) : std::nullopt, D, lengths, cu_seqlens);
}

}  // namespace
}  // namespace lyra::binding

// In Python the ops are lyra_kernels/backends/cpu/'s, which call these; in programs without Python they are here.
STABLE_TORCH_LIBRARY_FRAGMENT(lyra_cpu, m) {
  m.def(
      "gated_fft_conv(Tensor u, Tensor kernel, Tensor? reverse_kernel, Tensor? D, Tensor? pregate, Tensor? postgate, "
      "Tensor? lengths, Tensor? cu_seqlens) -> Tensor");
  m.def(
      "gated_fft_conv_backward(Tensor grad, Tensor u, Tensor kernel, Tensor? reverse_kernel, Tensor? D, Tensor? pregate, "
      "Tensor? postgate, Tensor? lengths, Tensor? cu_seqlens) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(lyra_cpu, CPU, m) {
  m.impl("gated_fft_conv", TORCH_BOX(&lyra::binding::gated_fft_conv));
  m.impl("gated_fft_conv_backward", TORCH_BOX(&lyra::binding::gated_fft_conv_backward));
}
STABLE_TORCH_LIBRARY_IMPL(lyra, CPU, m) {
  if (lyra::binding::in_python()) return;
  m.impl("fft_conv", TORCH_BOX(&lyra::binding::fft_conv));
  m.impl("gated_fft_conv", TORCH_BOX(&lyra::binding::gated_fft_conv));
  m.impl("s4d_fft", TORCH_BOX(&lyra::binding::s4d_fft));
}
