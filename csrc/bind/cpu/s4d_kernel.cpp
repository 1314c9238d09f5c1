#include "bind/tensors.h"
#include "cpu/s4d_kernel.h"

namespace lyra::binding {
namespace {

cpu::S4dKernelArgs arguments(const Tensor& log_dt, const Tensor& log_A_real, const Tensor& A_imag, const Tensor& C,
                             int64_t length) {
  STD_TORCH_CHECK(log_dt.dim() == 1, "log_dt must be (channels)");
  STD_TORCH_CHECK(A_imag.dim() == 2, "A_imag must be (channels, modes)");
  STD_TORCH_CHECK(length >= 0, "length must be 0 or more, not ", length);
  const ScalarType type = log_dt.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, "log_dt must be float32 or float64");
  cpu::S4dKernelArgs a;
  a.dtype = dtype_of(log_dt, "log_dt");
  a.channels = log_dt.size(0);
  a.modes = A_imag.size(1);
  a.length = length;
  a.log_dt = input(log_dt, "log_dt", type, {a.channels});
  a.log_A_real = input(log_A_real, "log_A_real", type, {a.channels, a.modes});
  a.A_imag = input(A_imag, "A_imag", type, {a.channels, a.modes});
  a.C = input(C, "C", type, {a.channels, a.modes, 2});
  a.kernel = nullptr;
  return a;
}

Tensor s4d_kernel(const Tensor& log_dt, const Tensor& log_A_real, const Tensor& A_imag, const Tensor& C,
                  int64_t length) {
  cpu::S4dKernelArgs a = arguments(log_dt, log_A_real, A_imag, C, length);
  Tensor kernel = new_tensor({a.channels, length}, log_dt.scalar_type());
  a.kernel = kernel.mutable_data_ptr();
  cpu::s4d_kernel(a, torch_threads());
  return kernel;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> s4d_kernel_backward(const Tensor& grad, const Tensor& log_dt,
                                                               const Tensor& log_A_real, const Tensor& A_imag,
                                                               const Tensor& C) {
  STD_TORCH_CHECK(grad.dim() == 2, "grad must be (channels, length)");
  cpu::S4dKernelBackwardArgs b;
  b.forward = arguments(log_dt, log_A_real, A_imag, C, grad.size(1));
  const cpu::S4dKernelArgs& a = b.forward;
  const ScalarType type = log_dt.scalar_type();
  b.grad = input(grad, "grad", type, {a.channels, a.length});
  Tensor dlog_dt = new_tensor({a.channels}, type);
  Tensor dlog_A_real = new_tensor({a.channels, a.modes}, type);
  Tensor dA_imag = new_tensor({a.channels, a.modes}, type);
  Tensor dC = new_tensor({a.channels, a.modes, 2}, type);
  b.dlog_dt = dlog_dt.mutable_data_ptr();
  b.dlog_A_real = dlog_A_real.mutable_data_ptr();
  b.dA_imag = dA_imag.mutable_data_ptr();
  b.dC = dC.mutable_data_ptr();
  cpu::s4d_kernel_backward(b, torch_threads());
  return {dlog_dt, dlog_A_real, dA_imag, dC};
}

}  // namespace
}  // namespace lyra::binding

STABLE_TORCH_LIBRARY_IMPL(lyra, CPU, m) {
  m.impl("s4d_kernel", TORCH_BOX(&lyra::binding::s4d_kernel));
  m.impl("s4d_kernel_backward", TORCH_BOX(&lyra::binding::s4d_kernel_backward));
}
