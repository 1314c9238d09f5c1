// A whole S4D block: norm, scan, tail. What the scan gives lies channels last, in whichever order the input and the
// output lie: only these two are transposed in the kernels' tiles, and what passes between kernels is not.
#include "bind/cpu/gelu_glu.h"
#include "bind/cpu/shared_ops.h"

namespace lyra::binding {
namespace {

Tensor flat(const Tensor& t) { return torch::stable::view(t, {t.numel()}); }

std::tuple<Tensor, Tensor, Tensor, Tensor> s4d_block(
    const Tensor& x, const Tensor& log_dt, const Tensor& log_A_real,
    const Tensor& A_imag, const Tensor& C, const OptionalTensor& D, const Tensor& weight, const OptionalTensor& bias,
    const OptionalTensor& norm_weight, const OptionalTensor& mask, const OptionalTensor& lengths, const OptionalTensor& cu_seqlens, double eps,
    bool add_input, bool save) {
  const Tensor u = norm_weight ? rms_norm<Cpu>(x, norm_weight, eps) : x;
  CpuCall scan(u, "x");
  cpu::S4dScanArgs a;
  fill(a, scan, u, log_dt, log_A_real, A_imag, C, D, lengths, cu_seqlens, std::nullopt);
  a.y_order = Order::channels_last;
  const Tensor y = scan.output_like(&a.y, "convolved", u);
  const Tensor checkpoints =
      scan.output_if(save, &a.checkpoints, "checkpoints",
                     {a.layout.tiles(kScanChunk), a.directions * a.channels * a.modes * 2});
  cpu::s4d_scan(a, scan.threads());

  const Tensor out = tail_of(y, weight, bias, mask, add_input ? OptionalTensor(x) : std::nullopt, lengths, cu_seqlens,
                             u, a.order);

  // What is not kept is not one tensor twice: outputs of an op may not be each other's aliases.
  const auto kept = [&](bool keep, const Tensor& t) {
    void* nowhere;
    return keep ? flat(t) : scan.output(&nowhere, "nothing", x.scalar_type(), {0});
  };
  return {out, kept(save && norm_weight, u), kept(save, y), checkpoints};
}

// One token (B, H) of a layer without norm and residual, and the state behind it: what S4D.step asks for.
std::tuple<Tensor, Tensor> s4d_step(const Tensor& u, const Tensor& state, const Tensor& log_dt,
                                    const Tensor& log_A_real, const Tensor& A_imag, const Tensor& C, const Tensor& D,
                                    const Tensor& weight, const OptionalTensor& bias) {
  STD_TORCH_CHECK(u.dim() == 2 && C.dim() == 3 && weight.dim() == 3, "u must be (batch, channels), C (channels, modes, 2) "
                  "and weight (2 channels, channels, 1)");
  const Tensor token = torch::stable::view(u, {u.size(0), 1, u.size(1)});
  const auto [y, after, checkpoints] =
      s4d_scan<Cpu>(token, log_dt, log_A_real, A_imag, torch::stable::view(C, {1, C.size(0), C.size(1), C.size(2)}), D,
                    std::nullopt, std::nullopt, state, false);
  const Tensor out = tail_of(y, torch::stable::view(weight, {weight.size(0), weight.size(1)}), bias, std::nullopt,
                             std::nullopt, std::nullopt, std::nullopt);
  return {torch::stable::view(out, {u.size(0), u.size(1)}), after};
}

}  // namespace
}  // namespace lyra::binding

STABLE_TORCH_LIBRARY_FRAGMENT(lyra_cpu, m) {
  m.def(
      "s4d_step(Tensor u, Tensor state, Tensor log_dt, Tensor log_A_real, Tensor A_imag, Tensor C, Tensor D, Tensor weight, "
      "Tensor? bias) -> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(lyra_cpu, CPU, m) { m.impl("s4d_step", TORCH_BOX(&lyra::binding::s4d_step)); }
STABLE_TORCH_LIBRARY_IMPL(lyra, CPU, m) { m.impl("s4d_block", TORCH_BOX(&lyra::binding::s4d_block)); }
