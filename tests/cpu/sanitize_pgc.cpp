// The gated convolution, the PGC block and the tail of an S4D layer on random shapes, for sanitize.py.
// sources: gemm.cpp gated_conv.cpp pgc.cpp pgc_backward.cpp gelu_glu.cpp
#include "../../csrc/cpu/gated_conv.h"
#include "../../csrc/cpu/gelu_glu.h"
#include "../../csrc/cpu/pgc.h"
#include "sanitize.h"

using namespace lyra::cpu;
using namespace lyra::sanitize;

namespace {

long long printable(int64_t x) { return static_cast<long long>(x); }

// A parameter and its gradient; both are null where it is left out.
struct Parameter {
  Array value, gradient;
  bool present;
  Parameter(DType type, int64_t count, bool present_ = true)
      : value(type, count, -1, 1), gradient(type, count), present(present_) {}
  const void* data() { return present ? value.data() : nullptr; }
  void* out() { return present ? gradient.data() : nullptr; }
  void check(const char* name) const {
    if (present) gradient.check(name);
  }
};

// Mostly narrow, now and then wider than a block of the products is deep.
int64_t channels() { return integer(0, 9) ? integer(0, 40) : integer(0, 300); }

// A layout whose sequences often fill a tile to its last row: tiles have 96 rows, less what a convolution reaches.
struct TiledLayout : RandomLayout {
  TiledLayout() : RandomLayout(250) {
    if (!layout.lengths && !layout.cu_seqlens && coin()) layout.max_length = 96 * integer(1, 2) - integer(0, 22);
  }
};

void gated_conv_case() {
  const TiledLayout random;
  const Layout& layout = random.layout;
  const DType dtype = random_dtype(), type = compute_type(dtype);
  const int64_t E = channels(), width = integer(1, 12), rows = layout.rows();
  const bool bias = coin(), norm = coin(), causal = coin();
  describe("gated_conv %s dtype %d sequences %lld length %lld channels %lld width %lld causal %d bias %d norm %d",
           random.kind(), static_cast<int>(dtype), printable(layout.sequences), printable(layout.max_length),
           printable(E), printable(width), causal, bias, norm);
  Array xv(dtype, rows * 2 * E, -1, 1), y(dtype, rows * E), grad(dtype, rows * E, -1, 1), dxv(dtype, rows * 2 * E);
  Parameter conv_weight(type, E * width), conv_bias(type, E, bias), norm_weight(type, 2 * E, norm);
  GatedConvBackwardArgs b;
  b.forward = {dtype,      layout,    E, width, causal, 1e-8, xv.data(), conv_weight.data(), conv_bias.data(),
               norm_weight.data(), y.data()};
  gated_conv(b.forward, random_threads());
  y.check("y");
  b.grad = grad.data();
  b.dxv = dxv.data();
  b.dconv_weight = conv_weight.out();
  b.dconv_bias = conv_bias.out();
  b.dnorm_weight = norm_weight.out();
  gated_conv_backward(b, random_threads());
  dxv.check("dxv");
  conv_weight.check("dconv_weight");
  conv_bias.check("dconv_bias");
  norm_weight.check("dnorm_weight");
}

void pgc_case() {
  const TiledLayout random;
  const Layout& layout = random.layout;
  const DType dtype = random_dtype(), type = compute_type(dtype);
  const int64_t in = channels(), E = channels(), out = channels(), width = integer(1, 12), rows = layout.rows();
  const bool causal = coin(), residual = coin();
  describe("pgc %s dtype %d sequences %lld length %lld in %lld channels %lld out %lld width %lld causal %d residual %d",
           random.kind(), static_cast<int>(dtype), printable(layout.sequences), printable(layout.max_length),
           printable(in), printable(E), printable(out), printable(width), causal, residual);
  Array added(dtype, rows * out, -1, 1);
  Array u(dtype, rows * in, -1, 1), y(dtype, rows * out), grad(dtype, rows * out, -1, 1), du(dtype, rows * in);
  Parameter in_weight(type, 2 * E * in), in_bias(type, 2 * E, coin()), in_norm(type, 2 * E, coin());
  Parameter conv_weight(type, E * width), conv_bias(type, E, coin());
  Parameter out_weight(type, out * E), out_bias(type, out, coin()), out_norm(type, out, coin());
  PgcBackwardArgs b;
  b.forward = {dtype,
               layout,
               in,
               E,
               out,
               width,
               causal,
               1e-8,
               u.data(),
               in_weight.data(),
               in_bias.data(),
               in_norm.data(),
               conv_weight.data(),
               conv_bias.data(),
               out_weight.data(),
               out_bias.data(),
               out_norm.data(),
               residual ? added.data() : nullptr,
               y.data()};
  pgc(b.forward, random_threads());
  y.check("y");
  b.grad = grad.data();
  b.du = du.data();
  b.din_weight = in_weight.out();
  b.din_bias = in_bias.out();
  b.din_norm_weight = in_norm.out();
  b.dconv_weight = conv_weight.out();
  b.dconv_bias = conv_bias.out();
  b.dout_weight = out_weight.out();
  b.dout_bias = out_bias.out();
  b.dout_norm_weight = out_norm.out();
  pgc_backward(b, random_threads());
  du.check("du");
  in_weight.check("din_weight");
  in_bias.check("din_bias");
  in_norm.check("din_norm_weight");
  conv_weight.check("dconv_weight");
  conv_bias.check("dconv_bias");
  out_weight.check("dout_weight");
  out_bias.check("dout_bias");
  out_norm.check("dout_norm_weight");
}

void gelu_glu_case() {
  const TiledLayout random;
  const Layout& layout = random.layout;
  const DType dtype = random_dtype(), type = compute_type(dtype);
  const int64_t H = channels(), rows = layout.rows();
  const bool dropout = coin(), residual = coin();
  describe("gelu_glu %s dtype %d sequences %lld length %lld channels %lld mask %d residual %d", random.kind(),
           static_cast<int>(dtype), printable(layout.sequences), printable(layout.max_length), printable(H), dropout,
           residual);
  Array y(dtype, rows * H, -20, 20), added(dtype, rows * H, -1, 1), out(dtype, rows * H);
  Array grad(dtype, rows * H, -1, 1), dy(dtype, rows * H), mask(type, layout.sequences * H, 0, 2);
  Parameter weight(type, 2 * H * H), bias(type, 2 * H, coin());
  GeluGluBackwardArgs b;
  b.forward = {dtype,       layout, H, y.data(), weight.data(), bias.data(), dropout ? mask.data() : nullptr,
               residual ? added.data() : nullptr, out.data()};
  b.forward.order = random_order();
  b.forward.out_order = random_order();
  b.forward.residual_order = random_order();
  b.grad_order = random_order();
  gelu_glu(b.forward, random_threads());
  out.check("out");
  b.grad = grad.data();
  b.dy = dy.data();
  b.dweight = weight.out();
  b.dbias = bias.out();
  gelu_glu_backward(b, random_threads());
  dy.check("dy");
  weight.check("dweight");
  bias.check("dbias");
}

}  // namespace

int main(int argc, char** argv) {
  return run_cases(argc, argv, [] {
    switch (integer(0, 2)) {
      case 0: return gated_conv_case();
      case 1: return pgc_case();
      default: return gelu_glu_case();
    }
  });
}
