// The convolution by Fourier transforms on random shapes, for sanitize.py.
// sources: fft_conv.cpp
#include "../../csrc/cpu/fft_conv.h"
#include "sanitize.h"

using namespace lyra::cpu;
using namespace lyra::sanitize;

namespace {

void one_case() {
  const RandomLayout random(integer(0, 9) ? 150 : 3000);
  const Layout& layout = random.layout;
  const DType dtype = random_dtype(), type = compute_type(dtype);
  const int64_t channels = integer(0, 40), taps = integer(0, 200), reverse_taps = coin() ? integer(0, 200) : 0;
  const bool reverse = reverse_taps > 0 || coin(), skip = coin(), before = coin(), behind = coin();
  describe("fft_conv %s dtype %d sequences %lld length %lld channels %lld taps %lld and %lld D %d gates %d %d",
           random.kind(), static_cast<int>(dtype), static_cast<long long>(layout.sequences),
           static_cast<long long>(layout.max_length), static_cast<long long>(channels), static_cast<long long>(taps),
           static_cast<long long>(reverse_taps), skip, before, behind);
  const int64_t count = layout.rows() * channels;
  Array u(dtype, count, -1, 1), y(dtype, count), grad(dtype, count, -1, 1), du(dtype, count);
  Array pregate(dtype, count, -1, 1), postgate(dtype, count, -1, 1), dpregate(dtype, count), dpostgate(dtype, count);
  Array kernel(type, channels * taps, -1, 1), dkernel(type, channels * taps);
  Array reverse_kernel(type, channels * reverse_taps, -1, 1), dreverse_kernel(type, channels * reverse_taps);
  Array D(type, channels, -1, 1), dD(type, channels);
  FftConvBackwardArgs b;
  b.forward = {dtype, layout, channels, taps, reverse_taps, u.data(), kernel.data(),
               reverse ? reverse_kernel.data() : nullptr, skip ? D.data() : nullptr,
               before ? pregate.data() : nullptr, behind ? postgate.data() : nullptr, y.data()};
  b.forward.order = random_order();
  b.forward.pregate_order = random_order();
  b.forward.postgate_order = random_order();
  b.grad_order = random_order();
  fft_conv(b.forward, random_threads());
  y.check("y");
  b.grad = grad.data();
  b.du = du.data();
  b.dkernel = dkernel.data();
  b.dreverse_kernel = reverse ? dreverse_kernel.data() : nullptr;
  b.dD = skip ? dD.data() : nullptr;
  b.dpregate = before ? dpregate.data() : nullptr;
  b.dpostgate = behind ? dpostgate.data() : nullptr;
  fft_conv_backward(b, random_threads());
  du.check("du");
  dkernel.check("dkernel");
  if (reverse) dreverse_kernel.check("dreverse_kernel");
  if (skip) dD.check("dD");
  if (before) dpregate.check("dpregate");
  if (behind) dpostgate.check("dpostgate");
}

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv, one_case); }
