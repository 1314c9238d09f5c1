// The schemas of the ops where no Python is: in a C++ program that runs an AOTInductor package.
//
// In Python lyra_kernels/schemas.py defines them, compiled library or not; a test compares the two. Backward ops are left
// out, since no package holds one.
#include "bind/call.h"
#include "bind/in_python.h"

namespace lyra::binding {
namespace {

constexpr const char* kSchemas[] = {
    "rms_norm(Tensor x, Tensor? weight, float eps) -> Tensor",
    "gated_conv(Tensor xv, Tensor conv_weight, Tensor? conv_bias, Tensor? norm_weight, Tensor? lengths, "
    "Tensor? cu_seqlens, float eps, bool causal) -> Tensor",
    "pgc(Tensor u, Tensor in_weight, Tensor? in_bias, Tensor? in_norm_weight, Tensor conv_weight, "
    "Tensor? conv_bias, Tensor out_weight, Tensor? out_bias, Tensor? out_norm_weight, Tensor? residual, "
    "Tensor? lengths, Tensor? cu_seqlens, float eps, bool causal) -> Tensor",
    "gelu_glu(Tensor y, Tensor weight, Tensor? bias, Tensor? mask, Tensor? residual, Tensor? lengths, "
    "Tensor? cu_seqlens) -> Tensor",
    "s4d_kernel(Tensor log_dt, Tensor log_A_real, Tensor A_imag, Tensor C, SymInt length) -> Tensor",
    "causal_conv(Tensor u, Tensor kernel, Tensor? reverse_kernel, Tensor? D, Tensor? lengths, "
    "Tensor? cu_seqlens) -> Tensor",
    "fft_conv(Tensor u, Tensor kernel, Tensor? reverse_kernel, Tensor? D, Tensor? lengths, "
    "Tensor? cu_seqlens) -> Tensor",
    "gated_fft_conv(Tensor u, Tensor kernel, Tensor? reverse_kernel, Tensor? D, Tensor? pregate, Tensor? postgate, "
    "Tensor? lengths, Tensor? cu_seqlens) -> Tensor",
    "short_conv(Tensor u, Tensor weight, Tensor? bias, Tensor? initial_state, Tensor? lengths, Tensor? cu_seqlens, "
    "bool silu) -> Tensor",
    "s4d_fft(Tensor u, Tensor log_dt, Tensor log_A_real, Tensor A_imag, Tensor C, Tensor? D, Tensor? lengths, "
    "Tensor? cu_seqlens) -> Tensor",
    "s4d_scan(Tensor u, Tensor log_dt, Tensor log_A_real, Tensor A_imag, Tensor C, Tensor? D, Tensor? lengths, "
    "Tensor? cu_seqlens, Tensor? initial_state, bool save) -> (Tensor, Tensor, Tensor)",
    "s4d_block(Tensor u, Tensor log_dt, Tensor log_A_real, Tensor A_imag, Tensor C, Tensor? D, Tensor weight, "
    "Tensor? bias, Tensor? norm_weight, Tensor? mask, Tensor? lengths, Tensor? cu_seqlens, float eps, "
    "bool add_input, bool save) -> (Tensor, Tensor, Tensor, Tensor)",
};

}  // namespace
}  // namespace lyra::binding

STABLE_TORCH_LIBRARY_FRAGMENT(lyra, m) {
  if (lyra::binding::in_python()) return;
  for (const char* schema : lyra::binding::kSchemas) m.def(schema);
}
