// S4D's two operators, whose arguments the CPU and the CUDA kernels have in common.
//
// A backend names its types and runs its kernels:
//   Call, ScanArgs, ScanBackwardArgs, KernelArgs, KernelBackwardArgs
//   static void scan(Call&, ScanArgs&), and scan_backward, kernel, kernel_backward
#pragma once

#include "bind/call.h"
#include "s4d_args.h"

namespace lyra::binding {

inline void fill_scan_arguments(S4dScanArgs& a, Call& call, const Tensor& u, const Tensor& log_dt,
                                const Tensor& log_A_real, const Tensor& A_imag, const Tensor& C,
                                const OptionalTensor& D, const OptionalTensor& lengths,
                                const OptionalTensor& cu_seqlens, const OptionalTensor& initial_state) {
  a.layout = call.layout(lengths, cu_seqlens);
  STD_TORCH_CHECK(A_imag.dim() == 2, "A_imag must be (channels, modes)");
  STD_TORCH_CHECK(C.dim() == 4 && (C.size(0) == 1 || C.size(0) == 2), "C must be (1 or 2, channels, modes, 2)");
  a.dtype = call.dtype();
  a.channels = u.size(2);
  a.modes = A_imag.size(1);
  a.directions = C.size(0);
  a.u = call.activations(u, "u", a.channels);
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
  typename Backend::ScanArgs a;
  fill_scan_arguments(a, call, u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, initial_state);
  Tensor y = call.output_like(&a.y, "y", u);
  Tensor final_state = call.output_if(a.directions == 1, &a.final_state, "final_state",
                                      {a.layout.sequences, a.channels, a.modes, 2});
  Tensor checkpoints = call.output_if(save, &a.checkpoints, "checkpoints",
                                      {a.layout.tiles(kScanChunk), a.directions * a.channels * a.modes * 2});
  Backend::scan(call, a);
  return {y, final_state, checkpoints};
}

template <class Backend>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> s4d_scan_backward(
    const Tensor& grad_y, const OptionalTensor& grad_final_state, const Tensor& u, const Tensor& log_dt,
    const Tensor& log_A_real, const Tensor& A_imag, const Tensor& C, const OptionalTensor& D,
    const OptionalTensor& lengths, const OptionalTensor& cu_seqlens, const OptionalTensor& initial_state,
    const Tensor& checkpoints) {
  typename Backend::Call call(u, "u");
  typename Backend::ScanBackwardArgs b;
  auto& a = b.forward;
  fill_scan_arguments(a, call, u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, initial_state);
  a.checkpoints = const_cast<void*>(call.parameter(
      checkpoints, "checkpoints",
      {a.layout.tiles(kScanChunk), a.directions * a.channels * a.modes * 2}));  // only read
  b.grad_y = call.activations(grad_y, "grad_y", a.channels);
  STD_TORCH_CHECK(!grad_final_state || a.directions == 1, "grad_final_state needs a single direction");
  b.grad_final_state =
      call.parameter(grad_final_state, "grad_final_state", {a.layout.sequences, a.channels, a.modes, 2});
  Tensor du = call.output_like(&b.du, "du", u);
  Tensor dlog_dt = call.gradient(log_dt, &b.dlog_dt, "dlog_dt");
  Tensor dlog_A_real = call.gradient(log_A_real, &b.dlog_A_real, "dlog_A_real");
  Tensor dA_imag = call.gradient(A_imag, &b.dA_imag, "dA_imag");
  Tensor dC = call.gradient(C, &b.dC, "dC");
  Tensor dD = call.gradient(D, &b.dD, "dD");
  Tensor dinitial_state = call.gradient(initial_state, &b.dinitial_state, "dinitial_state");
  Backend::scan_backward(call, b);
  return {du, dlog_dt, dlog_A_real, dA_imag, dC, dD, dinitial_state};
}

inline void fill_kernel_arguments(S4dKernelArgs& a, Call& call, const Tensor& log_dt, const Tensor& log_A_real,
                                  const Tensor& A_imag, const Tensor& C, int64_t length) {
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
  typename Backend::KernelArgs a;
  fill_kernel_arguments(a, call, log_dt, log_A_real, A_imag, C, length);
  Tensor kernel = call.output(&a.kernel, "kernel", call.compute(), {a.channels, length});
  Backend::kernel(call, a);
  return kernel;
}

template <class Backend>
std::tuple<Tensor, Tensor, Tensor, Tensor> s4d_kernel_backward(const Tensor& grad, const Tensor& log_dt,
                                                               const Tensor& log_A_real, const Tensor& A_imag,
                                                               const Tensor& C) {
  typename Backend::Call call(log_dt, "log_dt");
  STD_TORCH_CHECK(grad.dim() == 2, "grad must be (channels, length)");
  typename Backend::KernelBackwardArgs b;
  fill_kernel_arguments(b.forward, call, log_dt, log_A_real, A_imag, C, grad.size(1));
  b.grad = call.parameter(grad, "grad", {b.forward.channels, b.forward.length});
  Tensor dlog_dt = call.gradient(log_dt, &b.dlog_dt, "dlog_dt");
  Tensor dlog_A_real = call.gradient(log_A_real, &b.dlog_A_real, "dlog_A_real");
  Tensor dA_imag = call.gradient(A_imag, &b.dA_imag, "dA_imag");
  Tensor dC = call.gradient(C, &b.dC, "dC");
  Backend::kernel_backward(call, b);
  return {dlog_dt, dlog_A_real, dA_imag, dC};
}

}  // namespace lyra::binding
