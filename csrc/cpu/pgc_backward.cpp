// Nothing is saved by the forward: the first product (and, under an output norm, the second) is made again, a quarter
// of the work of a training step, and no activation but u and the gradients passes through memory.
//
// With o = W_out z + b_out, s = 1/sqrt(mean(o^2) + eps), m = o s, and g = dL/dy:
//   dw_norm = sum over tokens of g m,  do = s (w g - m mean(w g m)),  dz = W_out^T do,
// then the gated convolution's own backward gives dp = dL/d(W_in u + b_in), and du = W_in^T dp.
#include "pgc.h"
#include "pgc_tile.h"

namespace lyra::cpu::LYRA_ISA {
namespace {

// Sums over tokens for the parameters' gradients, one after another in one piece of memory.
template <class T>
struct Sums {
  T *in, *out, *gate, *out_norm;
  Sums(const Pgc<T>& p, T* data)
      : in(data), out(in + p.in.sums_size()), gate(out + p.out.sums_size()), out_norm(gate + p.gate.sums_size()) {}
  static int64_t size(const Pgc<T>& p) {
    return p.in.sums_size() + p.out.sums_size() + p.gate.sums_size() + p.out.width();
  }
};

// g <- do, from grad = dL/dy (rows, channels) and o; dnorm += the sums for the norm's weight over rows [first, last).
// o and g are (rows, width) with zeros in the padding of o.
template <class S, class T>
void normalise_backward(const S* grad, const T* o, T* g, int64_t stride, int64_t rows, int64_t width, int64_t channels,
                        T eps, const T* weight, T* s, int64_t first, int64_t last, T* dnorm) {
  constexpr int W = kLanes<T>;
  inverse_rms<T>(o, stride, rows, width, channels, eps, s);
  for (int64_t t = 0; t < rows; ++t, grad += channels, o += stride, g += stride) {
    const bool counts = t >= first && t < last;
    Vec<T> sum{};
    for (int64_t c = 0; c < width; c += W) {
      if (c >= channels) {
        store(g + c, Vec<T>{});
        continue;
      }
      const Vec<T> dy = load_channels(grad, c, channels), m = load(o + c) * s[t], dm = dy * load(weight + c);
      if (counts) store(dnorm + c, load(dnorm + c) + dy * m);
      sum += dm * m;
      store(g + c, dm);
    }
    const T mean = s[t] * sum_lanes<T>(sum) / T(channels);
    for (int64_t c = 0; c < width; c += W) store(g + c, s[t] * (load(g + c) - load(o + c) * mean));
  }
}

template <class S>
void backward(const PgcBackwardArgs& b, const Threads& threads) {
  using T = Compute<S>;
  const PgcArgs& a = b.forward;
  const Pgc<T> p(a, true, products_of<S>());
  const int64_t halo = p.gate.halo(), max_rows = product_rows(2 * halo), rows = max_rows + 2 * halo;
  const Tiles tiles(a.layout, max_rows);
  const int64_t n_stride = tile_stride<T>(p.in.columns()), z_stride = tile_stride<T>(a.channels);
  const int64_t o_stride = tile_stride<T>(a.out), u_stride = tile_stride<T>(a.in);
  const int64_t size = Sums<T>::size(p), parts = number_of_parts(tiles.size(), size * sizeof(T));
  Buffer<T> sums(std::max<int64_t>(parts, 1) * size, T(0));
  zero_padding(a.layout, b.du, a.in * sizeof(S));
  for_ranges(threads, parts, [&](int64_t first_part, int64_t last_part) {
    Buffer<T> u(rows * u_stride), n(rows * n_stride), r(rows), r_out(rows), z(rows * z_stride, T(0));
    Buffer<T> o(rows * o_stride), g(rows * o_stride), dz(rows * z_stride);
    Buffer<T> dp(max_rows * n_stride), du(max_rows * u_stride);
    for (int64_t part = first_part; part < last_part; ++part) {
      const Sums<T> sum(p, sums + part * size);
      for (int64_t i = tiles.size() * part / parts; i < tiles.size() * (part + 1) / parts; ++i) {
        const Tile& tile = tiles[i];
        const int64_t core = tile.rows();
        const S* u_rows = static_cast<const S*>(a.u) + tile.first_row * a.in;
        project_window<S, T>(p, u_rows, Window(tile, halo, halo), u, n, n_stride, r);

        // Rows of z, o and their gradients reach from `right` tokens ahead of the tile to `left` behind it.
        const Window w(tile, p.gate.right, p.gate.left);
        const int64_t real = w.last - w.first;
        gate_rows<T>(p.gate, n, n_stride, w.rows,
                     [&](int64_t t, int64_t c, Vec<T> value) { store(z + t * z_stride + c, value); });
        const S* grad = static_cast<const S*>(b.grad) + (tile.first_row + w.origin + w.first) * a.out;
        const int64_t ahead = p.gate.right - w.first;  // of the tile's first token, among the real rows
        if (p.out_normalised) {
          p.out.multiply(real, z + w.first * z_stride, z_stride, o, o_stride);
          normalise_backward<S, T>(grad, o, g, o_stride, real, p.out.width(), a.out, p.gate.eps, p.out_norm, r_out,
                                   ahead, ahead + core, sum.out_norm);
        } else {
          load_rows<S, T>(grad, real, a.out, g, o_stride, p.out.width());
        }
        p.out.add_gradients(core, g + ahead * o_stride, o_stride, z + p.gate.right * z_stride, z_stride, sum.out);
        zero<T>(dz, w.first * z_stride);
        zero<T>(dz + w.last * z_stride, (w.rows - w.last) * z_stride);
        p.out.multiply_back(real, g, o_stride, dz + w.first * z_stride, z_stride);
        gated_conv_backward_rows<T>(p.gate, core, n, n_stride, r, dz, z_stride, dp, n_stride, sum.gate);

        int64_t stride;
        const T* operand = operand_rows<S, T>(u_rows + tile.begin * a.in, core, a.in, u, &stride);
        p.in.add_gradients(core, dp, n_stride, operand, stride, sum.in);
        p.in.multiply_back(core, dp, n_stride, du, u_stride);
        store_rows<S, T>(du, u_stride, core, a.in, static_cast<S*>(b.du) + (tile.first_row + tile.begin) * a.in);
      }
    }
  });
  add_parts<T>(sums, parts, size, threads);
  const Sums<T> sum(p, sums);
  p.in.gradients(sum.in, b.din_weight, b.din_bias);
  p.out.gradients(sum.out, b.dout_weight, b.dout_bias);
  p.gate.gradients(sum.gate, static_cast<T*>(b.dconv_weight), static_cast<T*>(b.dconv_bias),
                   static_cast<T*>(b.din_norm_weight));
  if (b.dout_norm_weight) copy<T>(sum.out_norm, a.out, static_cast<T*>(b.dout_norm_weight));
}

}  // namespace

void pgc_backward(const PgcBackwardArgs& args, const Threads& threads) {
  with_storage_type(args.forward.dtype, [&](auto* p) { backward<Pointee<decltype(p)>>(args, threads); });
}

}  // namespace lyra::cpu::LYRA_ISA
