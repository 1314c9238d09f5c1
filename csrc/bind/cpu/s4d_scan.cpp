#include "bind/tensors.h"
#include "cpu/s4d_scan.h"

namespace lyra::binding {
namespace {

cpu::S4dScanArgs arguments(const Tensor& u, const Tensor& log_dt, const Tensor& log_A_real, const Tensor& A_imag,
                           const Tensor& C, const OptionalTensor& D, const OptionalTensor& lengths,
                           const OptionalTensor& cu_seqlens, const OptionalTensor& initial_state) {
  cpu::S4dScanArgs a;
  a.layout = layout_of(u, lengths, cu_seqlens);
  STD_TORCH_CHECK(u.is_contiguous(), "u must be contiguous");
  STD_TORCH_CHECK(A_imag.dim() == 2, "A_imag must be (channels, modes)");
  STD_TORCH_CHECK(C.dim() == 4 && (C.size(0) == 1 || C.size(0) == 2), "C must be (1 or 2, channels, modes, 2)");
  const ScalarType type = compute_type(u);
  a.dtype = dtype_of(u, "u");
  a.channels = u.size(2);
  a.modes = A_imag.size(1);
  a.directions = C.size(0);
  a.u = u.const_data_ptr();
  a.log_dt = input(log_dt, "log_dt", type, {a.channels});
  a.log_A_real = input(log_A_real, "log_A_real", type, {a.channels, a.modes});
  a.A_imag = input(A_imag, "A_imag", type, {a.channels, a.modes});
  a.C = input(C, "C", type, {a.directions, a.channels, a.modes, 2});
  a.D = input(D, "D", type, {a.channels});
  STD_TORCH_CHECK(!initial_state || a.directions == 1, "initial_state needs a single direction");
  a.initial_state = input(initial_state, "initial_state", type, {a.layout.sequences, a.channels, a.modes, 2});
  a.y = nullptr;
  a.final_state = nullptr;
  a.checkpoints = nullptr;
  return a;
}

// One slot for every chunk that a sequence may start.
int64_t slots_of(const cpu::Layout& layout) {
  if (layout.cu_seqlens) return layout.max_length / cpu::kScanChunk + layout.sequences;
  return layout.first_chunk(layout.sequences, cpu::kScanChunk);
}

std::tuple<Tensor, Tensor, Tensor> s4d_scan(const Tensor& u, const Tensor& log_dt, const Tensor& log_A_real,
                                            const Tensor& A_imag, const Tensor& C, const OptionalTensor& D,
                                            const OptionalTensor& lengths, const OptionalTensor& cu_seqlens,
                                            const OptionalTensor& initial_state, bool save) {
  cpu::S4dScanArgs a = arguments(u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, initial_state);
  const ScalarType type = compute_type(u);
  Tensor y = new_like(u);
  Tensor final_state =
      a.directions == 1 ? new_tensor({a.layout.sequences, a.channels, a.modes, 2}, type) : absent(type);
  Tensor checkpoints =
      save ? new_tensor({slots_of(a.layout), a.directions * a.channels * a.modes * 2}, type) : absent(type);
  a.y = y.mutable_data_ptr();
  if (a.directions == 1) a.final_state = final_state.mutable_data_ptr();
  if (save) a.checkpoints = checkpoints.mutable_data_ptr();
  cpu::s4d_scan(a, torch_threads());
  return {y, final_state, checkpoints};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> s4d_scan_backward(
    const Tensor& grad_y, const OptionalTensor& grad_final_state, const Tensor& u, const Tensor& log_dt,
    const Tensor& log_A_real, const Tensor& A_imag, const Tensor& C, const OptionalTensor& D,
    const OptionalTensor& lengths, const OptionalTensor& cu_seqlens, const OptionalTensor& initial_state,
    const Tensor& checkpoints) {
  cpu::S4dScanBackwardArgs b;
  cpu::S4dScanArgs& a = b.forward;
  a = arguments(u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, initial_state);
  const ScalarType type = compute_type(u);
  check(checkpoints, "checkpoints", type, {slots_of(a.layout), a.directions * a.channels * a.modes * 2});
  a.checkpoints = const_cast<void*>(checkpoints.const_data_ptr());  // only read
  b.grad_y = input(grad_y, "grad_y", u.scalar_type(), {u.size(0), u.size(1), u.size(2)});
  STD_TORCH_CHECK(!grad_final_state || a.directions == 1, "grad_final_state needs a single direction");
  b.grad_final_state =
      input(grad_final_state, "grad_final_state", type, {a.layout.sequences, a.channels, a.modes, 2});
  Tensor du = new_like(u);
  Tensor dlog_dt = new_tensor({a.channels}, type);
  Tensor dlog_A_real = new_tensor({a.channels, a.modes}, type);
  Tensor dA_imag = new_tensor({a.channels, a.modes}, type);
  Tensor dC = new_tensor({a.directions, a.channels, a.modes, 2}, type);
  Tensor dD = D ? new_tensor({a.channels}, type) : absent(type);
  Tensor dinitial_state =
      initial_state ? new_tensor({a.layout.sequences, a.channels, a.modes, 2}, type) : absent(type);
  b.du = du.mutable_data_ptr();
  b.dlog_dt = dlog_dt.mutable_data_ptr();
  b.dlog_A_real = dlog_A_real.mutable_data_ptr();
  b.dA_imag = dA_imag.mutable_data_ptr();
  b.dC = dC.mutable_data_ptr();
  b.dD = D ? dD.mutable_data_ptr() : nullptr;
  b.dinitial_state = initial_state ? dinitial_state.mutable_data_ptr() : nullptr;
  cpu::s4d_scan_backward(b, torch_threads());
  return {du, dlog_dt, dlog_A_real, dA_imag, dC, dD, dinitial_state};
}

}  // namespace
}  // namespace lyra::binding

STABLE_TORCH_LIBRARY_IMPL(lyra, CPU, m) {
  m.impl("s4d_scan", TORCH_BOX(&lyra::binding::s4d_scan));
  m.impl("s4d_scan_backward", TORCH_BOX(&lyra::binding::s4d_scan_backward));
}
