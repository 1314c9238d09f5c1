// The operators that have both CPU and CUDA kernels: one function for both, up to the call of the kernel.
//
// A backend names its types, tells where a gated convolution's result goes, and runs its kernels:
//   Call, and for Op in RmsNorm, GatedConv, S4dScan, S4dKernel: OpArgs, OpBackwardArgs
//   static void** result(GatedConvArgs&)
//   static void run(Call&, OpArgs&), run(Call&, OpBackwardArgs&)
#pragma once

#include <type_traits>

#include "args.h"
#include "bind/call.h"

namespace lyra::binding {

inline void fill(RmsNormArgs& a, Call& call, const Tensor& x, const OptionalTensor& weight, double eps) {
  STD_TORCH_CHECK(x.dim() >= 1, "x must have at least one dimension");
  a.dtype = call.dtype();
  a.channels = x.size(x.dim() - 1);
  a.rows = a.channels ? x.numel() / a.channels : 0;
  a.x = call.elements(x, "x");
  a.weight = call.parameter(weight, "weight", {a.channels});
  a.eps = eps;
  a.y = nullptr;
}

template <class Backend>
Tensor rms_norm(const Tensor& x, const OptionalTensor& weight, double eps) {
  typename Backend::Call call(x, "x");
  typename Backend::RmsNormArgs a;
  fill(a, call, x, weight, eps);
  Tensor y = call.output_like(&a.y, "y", x);
  Backend::run(call, a);
  return y;
}

template <class Backend>
std::tuple<Tensor, Tensor> rms_norm_backward(const Tensor& grad, const Tensor& x, const OptionalTensor& weight,
                                             double eps) {
  typename Backend::Call call(x, "x");
  typename Backend::RmsNormBackwardArgs b;
  fill(b.forward, call, x, weight, eps);
  b.grad = call.elements(grad, "grad");
  Tensor dx = call.output_like(&b.dx, "dx", x);
  Tensor dweight = call.gradient(weight, &b.dweight, "dweight");
  Backend::run(call, b);
  return {dx, dweight};
}

inline void fill(GatedConvArgs& a, Call& call, const Tensor& xv, const Tensor& conv_weight,
                 const OptionalTensor& conv_bias, const OptionalTensor& norm_weight, const OptionalTensor& lengths,
                 const OptionalTensor& cu_seqlens, double eps, bool causal) {
  STD_TORCH_CHECK(conv_weight.dim() == 3 && conv_weight.size(2) >= 1, "conv_weight must be (channels, 1, width)");
  a.dtype = call.dtype();
  a.layout = call.layout(lengths, cu_seqlens);
  a.channels = conv_weight.size(0);
  a.width = conv_weight.size(2);
  a.causal = causal;
  a.eps = eps;
  a.xv = call.activations(xv, "xv", 2 * a.channels);
  a.conv_weight = call.parameter(conv_weight, "conv_weight", {a.channels, 1, a.width});
  a.conv_bias = call.parameter(conv_bias, "conv_bias", {a.channels});
  a.norm_weight = call.parameter(norm_weight, "norm_weight", {2 * a.channels});
}

template <class Backend>
Tensor gated_conv(const Tensor& xv, const Tensor& conv_weight, const OptionalTensor& conv_bias,
                  const OptionalTensor& norm_weight, const OptionalTensor& lengths, const OptionalTensor& cu_seqlens,
                  double eps, bool causal) {
  typename Backend::Call call(xv, "xv");
  typename Backend::GatedConvArgs a;
  fill(a, call, xv, conv_weight, conv_bias, norm_weight, lengths, cu_seqlens, eps, causal);
  Tensor out = call.output(Backend::result(a), "out", xv.scalar_type(), {xv.size(0), xv.size(1), a.channels});
  Backend::run(call, a);
  return out;
}

template <class Backend>
std::tuple<Tensor, Tensor, Tensor, Tensor> gated_conv_backward(
    const Tensor& grad, const Tensor& xv, const Tensor& conv_weight, const OptionalTensor& conv_bias,
    const OptionalTensor& norm_weight, const OptionalTensor& lengths, const OptionalTensor& cu_seqlens, double eps,
    bool causal) {
  typename Backend::Call call(xv, "xv");
  typename Backend::GatedConvBackwardArgs b;
  fill(b.forward, call, xv, conv_weight, conv_bias, norm_weight, lengths, cu_seqlens, eps, causal);
  *Backend::result(b.forward) = nullptr;
  b.grad = call.activations(grad, "grad", b.forward.channels);
  Tensor dxv = call.output_like(&b.dxv, "dxv", xv);
  Tensor dconv_weight = call.gradient(conv_weight, &b.dconv_weight, "dconv_weight");
  Tensor dconv_bias = call.gradient(conv_bias, &b.dconv_bias, "dconv_bias");
  Tensor dnorm_weight = call.gradient(norm_weight, &b.dnorm_weight, "dnorm_weight");
  Backend::run(call, b);
  return {dxv, dconv_weight, dconv_bias, dnorm_weight};
}

// Whether a backend's scan takes activations in either order of memory.
template <class Args, class = void>
struct TakesOrders : std::false_type {};
template <class Args>
struct TakesOrders<Args, std::void_t<decltype(Args::order)>> : std::true_type {};

template <class Args>
Order order_of(const Args& a) {
  if constexpr (TakesOrders<Args>::value) return a.order;
  return Order::channels_last;
}

template <class ScanArgs>
void fill(ScanArgs& a, Call& call, const Tensor& u, const Tensor& log_dt, const Tensor& log_A_real,
                 const Tensor& A_imag, const Tensor& C, const OptionalTensor& D, const OptionalTensor& lengths,
                 const OptionalTensor& cu_seqlens, const OptionalTensor& initial_state) {
  a.layout = call.layout(lengths, cu_seqlens);
  STD_TORCH_CHECK(A_imag.dim() == 2, "A_imag must be (channels, modes)");
  STD_TORCH_CHECK(C.dim() == 4 && (C.size(0) == 1 || C.size(0) == 2), "C must be (1 or 2, channels, modes, 2)");
  a.dtype = call.dtype();
  a.channels = u.size(2);
  a.modes = A_imag.size(1);
  a.directions = C.size(0);
  Order order = Order::channels_last;
  a.u = call.activations(u, "u", a.channels, &order);
  if constexpr (TakesOrders<ScanArgs>::value) a.order = a.y_order = order;
  a.log_dt = call.parameter(log_dt, "log_dt", {a.channels});
  a.log_A_real = call.parameter(log_A_real, "log_A_real", {a.channels, a.modes});
  a.A_imag = call.parameter(A_imag, "A_imag", {a.channels, a.modes});
  a.C = call.parameter(C, "C", {a.directions, a.channels, a.modes, 2});
  a.D = call.parameter(D, "D", {a.channels});
  STD_TORCH_CHECK(!initial_state || a.directions == 1, "initial_state needs a single direction");
  a.initial_state = call.parameter(initial_state, "initial_state", {a.layout.sequences, a.channels, a.modes, 2});
  a.y = nullptr;
  a.final_state = nullptr;
  a.checkpoints = nullptr;
}

template <class Backend>
std::tuple<Tensor, Tensor, Tensor> s4d_scan(const Tensor& u, const Tensor& log_dt, const Tensor& log_A_real,
                                            const Tensor& A_imag, const Tensor& C, const OptionalTensor& D,
                                            const OptionalTensor& lengths, const OptionalTensor& cu_seqlens,
                                            const OptionalTensor& initial_state, bool save) {
  typename Backend::Call call(u, "u");
  typename Backend::S4dScanArgs a;
  fill(a, call, u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, initial_state);
  Tensor y = call.output_like(&a.y, "y", u, order_of(a));
  Tensor final_state = call.output_if(a.directions == 1, &a.final_state, "final_state",
                                      {a.layout.sequences, a.channels, a.modes, 2});
  Tensor checkpoints = call.output_if(save, &a.checkpoints, "checkpoints",
                                      {a.layout.tiles(kScanChunk), a.directions * a.channels * a.modes * 2});
  Backend::run(call, a);
  return {y, final_state, checkpoints};
}

template <class Backend>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> s4d_scan_backward(
    const Tensor& grad_y, const OptionalTensor& grad_final_state, const Tensor& u, const Tensor& log_dt,
    const Tensor& log_A_real, const Tensor& A_imag, const Tensor& C, const OptionalTensor& D,
    const OptionalTensor& lengths, const OptionalTensor& cu_seqlens, const OptionalTensor& initial_state,
    const Tensor& checkpoints) {
  typename Backend::Call call(u, "u");
  typename Backend::S4dScanBackwardArgs b;
  auto& a = b.forward;
  fill(a, call, u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, initial_state);
  a.checkpoints = const_cast<void*>(call.parameter(
      checkpoints, "checkpoints",
      {a.layout.tiles(kScanChunk), a.directions * a.channels * a.modes * 2}));  // only read
  Order grad_order = Order::channels_last;
  b.grad_y = call.activations(grad_y, "grad_y", a.channels, &grad_order);
  if constexpr (TakesOrders<std::decay_t<decltype(a)>>::value) b.grad_order = grad_order;
  STD_TORCH_CHECK(!grad_final_state || a.directions == 1, "grad_final_state needs a single direction");
  b.grad_final_state =
      call.parameter(grad_final_state, "grad_final_state", {a.layout.sequences, a.channels, a.modes, 2});
  Tensor du = call.output_like(&b.du, "du", u, order_of(a));
  Tensor dlog_dt = call.gradient(log_dt, &b.dlog_dt, "dlog_dt");
  Tensor dlog_A_real = call.gradient(log_A_real, &b.dlog_A_real, "dlog_A_real");
  Tensor dA_imag = call.gradient(A_imag, &b.dA_imag, "dA_imag");
  Tensor dC = call.gradient(C, &b.dC, "dC");
  Tensor dD = call.gradient(D, &b.dD, "dD");
  Tensor dinitial_state = call.gradient(initial_state, &b.dinitial_state, "dinitial_state");
  Backend::run(call, b);
  return {du, dlog_dt, dlog_A_real, dA_imag, dC, dD, dinitial_state};
}

inline void fill(S4dKernelArgs& a, Call& call, const Tensor& log_dt, const Tensor& log_A_real, const Tensor& A_imag,
                 const Tensor& C, int64_t length) {
  STD_TORCH_CHECK(log_dt.dim() == 1, "log_dt must be (channels)");
  STD_TORCH_CHECK(A_imag.dim() == 2, "A_imag must be (channels, modes)");
  STD_TORCH_CHECK(length >= 0, "length must be 0 or more, not ", length);
  STD_TORCH_CHECK(log_dt.scalar_type() == call.compute(), "log_dt must be float32 or float64");
  a.dtype = call.dtype();
  a.channels = log_dt.size(0);
  a.modes = A_imag.size(1);
  a.length = length;
  a.log_dt = call.parameter(log_dt, "log_dt", {a.channels});
  a.log_A_real = call.parameter(log_A_real, "log_A_real", {a.channels, a.modes});
  a.A_imag = call.parameter(A_imag, "A_imag", {a.channels, a.modes});
  a.C = call.parameter(C, "C", {a.channels, a.modes, 2});
  a.kernel = nullptr;
}

template <class Backend>
Tensor s4d_kernel(const Tensor& log_dt, const Tensor& log_A_real, const Tensor& A_imag, const Tensor& C,
                  int64_t length) {
  typename Backend::Call call(log_dt, "log_dt");
  typename Backend::S4dKernelArgs a;
  fill(a, call, log_dt, log_A_real, A_imag, C, length);
  Tensor kernel = call.output(&a.kernel, "kernel", call.compute(), {a.channels, length});
  Backend::run(call, a);
  return kernel;
}

template <class Backend>
std::tuple<Tensor, Tensor, Tensor, Tensor> s4d_kernel_backward(const Tensor& grad, const Tensor& log_dt,
                                                               const Tensor& log_A_real, const Tensor& A_imag,
                                                               const Tensor& C) {
  typename Backend::Call call(log_dt, "log_dt");
  STD_TORCH_CHECK(grad.dim() == 2, "grad must be (channels, length)");
  typename Backend::S4dKernelBackwardArgs b;
  fill(b.forward, call, log_dt, log_A_real, A_imag, C, grad.size(1));
  b.grad = call.parameter(grad, "grad", {b.forward.channels, b.forward.length});
  Tensor dlog_dt = call.gradient(log_dt, &b.dlog_dt, "dlog_dt");
  Tensor dlog_A_real = call.gradient(log_A_real, &b.dlog_A_real, "dlog_A_real");
  Tensor dA_imag = call.gradient(A_imag, &b.dA_imag, "dA_imag");
  Tensor dC = call.gradient(C, &b.dC, "dC");
  Backend::run(call, b);
  return {dlog_dt, dlog_A_real, dA_imag, dC};
}

}  // namespace lyra::binding
