// The short convolution on random shapes, both ways to lie, for sanitize.py.
// sources: short_conv.cpp
#include "../../csrc/cpu/short_conv.h"
#include "sanitize.h"

using namespace lyra::cpu;
using namespace lyra::sanitize;

namespace {

long long printable(int64_t x) { return static_cast<long long>(x); }

void conv_case() {
  const RandomLayout random(coin() ? 60 : 1500);
  const Layout& layout = random.layout;
  const DType dtype = random_dtype(), type = compute_type(dtype);
  const int64_t channels = integer(0, 40), width = coin() ? integer(1, 4) : integer(1, 70);
  const bool silu = coin(), first = coin(), grad_first = coin(), has_bias = coin(), has_state = coin();
  describe("short_conv %s dtype %d sequences %lld length %lld channels %lld width %lld silu %d first %d %d bias %d state %d",
           random.kind(), static_cast<int>(dtype), printable(layout.sequences), printable(layout.max_length),
           printable(channels), printable(width), silu, first, grad_first, has_bias, has_state);
  const int64_t count = layout.rows() * channels, states = layout.sequences * (width - 1) * channels;
  Array u(dtype, count, -1, 1), y(dtype, count), grad(dtype, count, -1, 1), du(dtype, count);
  Array weight(type, channels * width, -1, 1), dweight(type, channels * width);
  Array bias(type, channels, -1, 1), dbias(type, channels);
  Array state(type, states, -1, 1), dstate(type, states);
  ShortConvBackwardArgs b;
  b.forward = {dtype, layout, channels, width, silu, first, u.data(), weight.data(),
               has_bias ? bias.data() : nullptr, has_state ? state.data() : nullptr, y.data()};
  short_conv(b.forward, random_threads());
  y.check("y");
  b.grad_channels_first = grad_first;
  b.grad = grad.data();
  b.du = du.data();
  b.dweight = dweight.data();
  b.dbias = has_bias ? dbias.data() : nullptr;
  b.dinitial_state = has_state ? dstate.data() : nullptr;
  short_conv_backward(b, random_threads());
  du.check("du");
  dweight.check("dweight");
  if (has_bias) dbias.check("dbias");
  if (has_state) dstate.check("dinitial_state");
}

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv, conv_case); }
