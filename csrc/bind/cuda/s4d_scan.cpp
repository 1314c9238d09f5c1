#include "bind/cuda/call.h"
#include "cuda/s4d_scan.h"

namespace lyra::binding {
namespace {

cuda::S4dScanArgs arguments(CudaCall& call, const Tensor& u, const Tensor& log_dt, const Tensor& log_A_real,
                            const Tensor& A_imag, const Tensor& C, const OptionalTensor& D,
                            const OptionalTensor& lengths, const OptionalTensor& cu_seqlens,
                            const OptionalTensor& initial_state) {
  STD_TORCH_CHECK(A_imag.dim() == 2, "A_imag must be (channels, modes)");
  STD_TORCH_CHECK(C.dim() == 4 && (C.size(0) == 1 || C.size(0) == 2), "C must be (1 or 2, channels, modes, 2)");
  cuda::S4dScanArgs a;
  a.layout = call.layout(lengths, cu_seqlens);
  a.dtype = call.dtype();
  a.channels = u.size(2);
  a.modes = A_imag.size(1);
  a.directions = C.size(0);
  a.u = call.elements(u, "u", u.scalar_type(), u.numel());
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
  a.workspace = nullptr;
  a.stream = call.stream();
  return a;
}

std::tuple<Tensor, Tensor, Tensor> s4d_scan(const Tensor& u, const Tensor& log_dt, const Tensor& log_A_real,
                                            const Tensor& A_imag, const Tensor& C, const OptionalTensor& D,
                                            const OptionalTensor& lengths, const OptionalTensor& cu_seqlens,
                                            const OptionalTensor& initial_state, bool save) {
  CudaCall call(u);
  cuda::S4dScanArgs a = arguments(call, u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, initial_state);
  Tensor y = call.output_like(&a.y, "y", u);
  Tensor final_state = call.gradient(a.directions == 1, &a.final_state, "final_state",
                                     {a.layout.sequences, a.channels, a.modes, 2});
  Tensor checkpoints = call.gradient(save, &a.checkpoints, "checkpoints",
                                     {a.layout.tiles(cuda::kScanChunk), a.directions * a.channels * a.modes * 2});
  Tensor workspace = call.workspace(&a.workspace, cuda::s4d_scan_workspace(a));
  cuda::s4d_scan(a);
  return {y, final_state, checkpoints};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> s4d_scan_backward(
    const Tensor& grad_y, const OptionalTensor& grad_final_state, const Tensor& u, const Tensor& log_dt,
    const Tensor& log_A_real, const Tensor& A_imag, const Tensor& C, const OptionalTensor& D,
    const OptionalTensor& lengths, const OptionalTensor& cu_seqlens, const OptionalTensor& initial_state,
    const Tensor& checkpoints) {
  CudaCall call(u);
  cuda::S4dScanBackwardArgs b;
  cuda::S4dScanArgs& a = b.forward;
  a = arguments(call, u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, initial_state);
  a.checkpoints = const_cast<void*>(
      call.parameter(checkpoints, "checkpoints",
                     {a.layout.tiles(cuda::kScanChunk), a.directions * a.channels * a.modes * 2}));  // only read
  b.grad_y = call.elements(grad_y, "grad_y", u.scalar_type(), u.numel());
  STD_TORCH_CHECK(!grad_final_state || a.directions == 1, "grad_final_state needs a single direction");
  b.grad_final_state =
      call.parameter(grad_final_state, "grad_final_state", {a.layout.sequences, a.channels, a.modes, 2});
  Tensor du = call.output_like(&b.du, "du", u);
  Tensor dlog_dt = call.output_like(&b.dlog_dt, "dlog_dt", log_dt);
  Tensor dlog_A_real = call.output_like(&b.dlog_A_real, "dlog_A_real", log_A_real);
  Tensor dA_imag = call.output_like(&b.dA_imag, "dA_imag", A_imag);
  Tensor dC = call.output_like(&b.dC, "dC", C);
  Tensor dD = call.gradient(D.has_value(), &b.dD, "dD", {a.channels});
  Tensor dinitial_state = call.gradient(initial_state.has_value(), &b.dinitial_state, "dinitial_state",
                                        {a.layout.sequences, a.channels, a.modes, 2});
  Tensor workspace = call.workspace(&a.workspace, cuda::s4d_scan_backward_workspace(a));
  cuda::s4d_scan_backward(b);
  return {du, dlog_dt, dlog_A_real, dA_imag, dC, dD, dinitial_state};
}

}  // namespace
}  // namespace lyra::binding

#define SCAN_ARGUMENTS                                                                                    \
  "Tensor u, Tensor log_dt, Tensor log_A_real, Tensor A_imag, Tensor C, Tensor? D, Tensor? lengths, "     \
  "Tensor? cu_seqlens, Tensor? initial_state, "

STABLE_TORCH_LIBRARY_FRAGMENT(LYRA_CUDA_LIBRARY, m) {
  m.def("s4d_scan(" SCAN_ARGUMENTS "bool save) -> (Tensor, Tensor, Tensor)");
  m.def("s4d_scan_backward(Tensor grad_y, Tensor? grad_final_state, " SCAN_ARGUMENTS
        "Tensor checkpoints) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(LYRA_CUDA_LIBRARY, LYRA_CUDA_KEY, m) {
  m.impl("s4d_scan", TORCH_BOX(&lyra::binding::s4d_scan));
  m.impl("s4d_scan_backward", TORCH_BOX(&lyra::binding::s4d_scan_backward));
}
