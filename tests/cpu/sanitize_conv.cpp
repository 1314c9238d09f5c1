// The convolutions with one long kernel per channel on random shapes, for sanitize.py.
// sources: causal_conv.cpp fft_conv.cpp
#include "../../csrc/cpu/fft_conv.h"
#include "sanitize.h"

using namespace lyra::cpu;
using namespace lyra::sanitize;

namespace {

// What both take and give.
struct Convolution {
  const RandomLayout random;
  const DType dtype = random_dtype(), type = compute_type(dtype);
  const int64_t channels = integer(0, 40), taps = integer(0, 200), reverse_taps = coin() ? integer(0, 200) : 0;
  const bool reverse = reverse_taps > 0 || coin(), skip = coin();
  const int64_t count = random.layout.rows() * channels;
  Array u{dtype, count, -1, 1}, y{dtype, count}, grad{dtype, count, -1, 1}, du{dtype, count};
  Array kernel{type, channels * taps, -1, 1}, dkernel{type, channels * taps};
  Array reverse_kernel{type, channels * reverse_taps, -1, 1}, dreverse_kernel{type, channels * reverse_taps};
  Array D{type, channels, -1, 1}, dD{type, channels};

  Convolution(const char* name, int64_t longest) : random(longest) {
    describe("%s %s dtype %d sequences %lld length %lld channels %lld taps %lld and %lld D %d", name, random.kind(),
             static_cast<int>(dtype), static_cast<long long>(random.layout.sequences),
             static_cast<long long>(random.layout.max_length), static_cast<long long>(channels),
             static_cast<long long>(taps), static_cast<long long>(reverse_taps), skip);
  }
  void fill(CausalConvArgs& a) {
    a.dtype = dtype;
    a.layout = random.layout;
    a.channels = channels;
    a.taps = taps;
    a.reverse_taps = reverse_taps;
    a.u = u.data();
    a.kernel = kernel.data();
    a.reverse_kernel = reverse ? reverse_kernel.data() : nullptr;
    a.D = skip ? D.data() : nullptr;
    a.y = y.data();
    a.order = random_order();
  }
  template <class Backward>
  void fill_gradients(Backward& b) {
    b.grad = grad.data();
    b.du = du.data();
    b.dkernel = dkernel.data();
    b.dreverse_kernel = reverse ? dreverse_kernel.data() : nullptr;
    b.dD = skip ? dD.data() : nullptr;
    b.grad_order = random_order();
  }
  void check_gradients() const {
    du.check("du");
    dkernel.check("dkernel");
    if (reverse) dreverse_kernel.check("dreverse_kernel");
    if (skip) dD.check("dD");
  }
};

void direct_case() {
  Convolution c("causal_conv", 100);
  CausalConvBackwardArgs b;
  c.fill(b.forward);
  causal_conv(b.forward, random_threads());
  c.y.check("y");
  c.fill_gradients(b);
  causal_conv_backward(b, random_threads());
  c.check_gradients();
}

void fft_case() {
  Convolution c("fft_conv", integer(0, 9) ? 150 : 3000);
  const bool before = coin(), behind = coin();
  describe("gates %d %d", before, behind);
  Array pregate(c.dtype, c.count, -1, 1), postgate(c.dtype, c.count, -1, 1);
  Array dpregate(c.dtype, c.count), dpostgate(c.dtype, c.count);
  FftConvBackwardArgs b;
  c.fill(b.forward);
  b.forward.pregate = before ? pregate.data() : nullptr;
  b.forward.postgate = behind ? postgate.data() : nullptr;
  b.forward.pregate_order = random_order();
  b.forward.postgate_order = random_order();
  fft_conv(b.forward, random_threads());
  c.y.check("y");
  c.fill_gradients(b);
  b.dpregate = before ? dpregate.data() : nullptr;
  b.dpostgate = behind ? dpostgate.data() : nullptr;
  fft_conv_backward(b, random_threads());
  c.check_gradients();
  if (before) dpregate.check("dpregate");
  if (behind) dpostgate.check("dpostgate");
}

}  // namespace

int main(int argc, char** argv) {
  return run_cases(argc, argv, [] { return coin() ? fft_case() : direct_case(); });
}
