// The kernels of S4D on random shapes, for sanitize.py.
// sources: s4d_scan.cpp s4d_scan_backward.cpp s4d_kernel.cpp s4d_kernel_backward.cpp
#include "../../csrc/cpu/s4d_kernel.h"
#include "../../csrc/cpu/s4d_scan.h"
#include "sanitize.h"

using namespace lyra::cpu;
using namespace lyra::sanitize;

namespace {

long long printable(int64_t x) { return static_cast<long long>(x); }

struct Parameters {
  Array log_dt, log_A_real, A_imag, C;
  Parameters(DType type, int64_t channels, int64_t modes, int64_t directions)
      : log_dt(type, channels, -7, 0), log_A_real(type, channels * modes, -6, 2),
        A_imag(type, channels * modes, -100, 100), C(type, directions * channels * modes * 2, -1, 1) {}
};

// As the binding counts them.
int64_t slots_of(const Layout& layout) {
  if (layout.cu_seqlens) return layout.max_length / kScanChunk + layout.sequences;
  return layout.sequences * ((layout.max_length + kScanChunk - 1) / kScanChunk);
}

void scan_case() {
  const RandomLayout random(200);
  const Layout& layout = random.layout;
  const DType dtype = random_dtype(), type = compute_type(dtype);
  const int64_t channels = integer(0, 40), modes = integer(0, 19), directions = integer(1, 2);
  const bool skip = coin(), state = directions == 1 && coin(), save = coin();
  const int64_t rows = layout.rows(), states = layout.sequences * channels * modes * 2;
  describe("s4d_scan %s dtype %d sequences %lld length %lld channels %lld modes %lld directions %lld D %d state %d",
           random.kind(), static_cast<int>(dtype), printable(layout.sequences), printable(layout.max_length),
           printable(channels), printable(modes), printable(directions), skip, state);
  Array u(dtype, rows * channels, -1, 1), y(dtype, rows * channels), D(type, channels, -1, 1);
  Array initial(type, states, -1, 1), final_state(type, states);
  Array checkpoints(type, slots_of(layout) * directions * channels * modes * 2);
  Parameters p(type, channels, modes, directions);
  S4dScanBackwardArgs b;
  S4dScanArgs& a = b.forward;
  a.dtype = dtype;
  a.layout = layout;
  a.channels = channels;
  a.modes = modes;
  a.directions = directions;
  a.order = random_order();
  a.y_order = random_order();
  b.grad_order = random_order();
  a.u = u.data();
  a.log_dt = p.log_dt.data();
  a.log_A_real = p.log_A_real.data();
  a.A_imag = p.A_imag.data();
  a.C = p.C.data();
  a.D = skip ? D.data() : nullptr;
  a.initial_state = state ? initial.data() : nullptr;
  a.y = y.data();
  a.final_state = directions == 1 ? final_state.data() : nullptr;
  a.checkpoints = save ? checkpoints.data() : nullptr;
  s4d_scan(a, random_threads());
  y.check("y");
  if (directions == 1) final_state.check("final_state");
  if (!save) return;

  Array grad(dtype, rows * channels, -1, 1), grad_state(type, states, -1, 1), du(dtype, rows * channels);
  Array dlog_dt(type, channels), dlog_A_real(type, channels * modes), dA_imag(type, channels * modes);
  Array dC(type, directions * channels * modes * 2), dD(type, channels), dinitial(type, states);
  b.grad_y = grad.data();
  b.grad_final_state = directions == 1 && coin() ? grad_state.data() : nullptr;
  b.du = du.data();
  b.dlog_dt = dlog_dt.data();
  b.dlog_A_real = dlog_A_real.data();
  b.dA_imag = dA_imag.data();
  b.dC = dC.data();
  b.dD = skip ? dD.data() : nullptr;
  b.dinitial_state = state ? dinitial.data() : nullptr;
  s4d_scan_backward(b, random_threads());
  du.check("du");
  dlog_dt.check("dlog_dt");
  dlog_A_real.check("dlog_A_real");
  dA_imag.check("dA_imag");
  dC.check("dC");
  if (skip) dD.check("dD");
  if (state) dinitial.check("dinitial_state");
}

void kernel_case() {
  const DType type = coin() ? DType::f32 : DType::f64;
  // Now and then long enough for several ranges, and for a second segment.
  const int64_t channels = integer(0, 20), modes = integer(0, 40);
  const int64_t length = integer(0, 9) ? integer(0, 300) : integer(0, 70000);
  describe("s4d_kernel dtype %d channels %lld modes %lld length %lld", static_cast<int>(type), printable(channels),
           printable(modes), printable(length));
  Parameters p(type, channels, modes, 1);
  Array kernel(type, channels * length), grad(type, channels * length, -1, 1);
  Array dlog_dt(type, channels), dlog_A_real(type, channels * modes), dA_imag(type, channels * modes);
  Array dC(type, channels * modes * 2);
  S4dKernelBackwardArgs b;
  b.forward = {type, channels, modes, length, p.log_dt.data(), p.log_A_real.data(), p.A_imag.data(), p.C.data(),
               kernel.data()};
  s4d_kernel(b.forward, random_threads());
  kernel.check("kernel");
  b.grad = grad.data();
  b.dlog_dt = dlog_dt.data();
  b.dlog_A_real = dlog_A_real.data();
  b.dA_imag = dA_imag.data();
  b.dC = dC.data();
  s4d_kernel_backward(b, random_threads());
  dlog_dt.check("dlog_dt");
  dlog_A_real.check("dlog_A_real");
  dA_imag.check("dA_imag");
  dC.check("dC");
}

}  // namespace

int main(int argc, char** argv) {
  return run_cases(argc, argv, [] { return integer(0, 3) ? scan_case() : kernel_case(); });
}
