// Memory-bound: xv is read once and z written once. A tile of normalised rows stays in L1/L2 between the norm and the
// convolution; its halo of width-1 rows is normalised again by the neighbour, a few per cent at the tile's length.
// Nothing is saved for the backward, which starts again from xv.
#include "gated_conv.h"

#include "gated_conv_tile.h"

namespace lyra::cpu::LYRA_ISA {
namespace {

// Tokens a tile: enough that the halo is small beside it.
int64_t tile_rows(int64_t width) { return std::max<int64_t>(64, 4 * width); }

// Row `row` of the tile <- (x, v) of token row of xv, normalised; rows outside the sequence are zeros.
template <class S, class T>
LYRA_INLINE void load_window(const GatedConv<T>& p, const S* xv, const Window& w, T* n, int64_t stride, T* r) {
  const int64_t E = p.channels;
  zero<T>(n, w.first * stride);
  zero<T>(n + w.last * stride, (w.rows - w.last) * stride);
  for (int64_t i = w.first; i < w.last; ++i) {
    load_rows(xv + (w.origin + i) * 2 * E, 1, E, n + i * stride, stride, p.half);
    load_rows(xv + (w.origin + i) * 2 * E + E, 1, E, n + i * stride + p.half, stride, p.half);
    if (p.normalised) normalise_rows<T>(n + i * stride, stride, 1, 2 * p.half, 2 * E, p.eps, r + i);
  }
}

template <class T>
GatedConv<T> parameters(const GatedConvArgs& a) {
  return {a.channels, a.width, a.causal, a.eps, a.conv_weight, a.conv_bias, a.norm_weight};
}

template <class S>
void forward(const GatedConvArgs& a, const Threads& threads) {
  using T = Compute<S>;
  const GatedConv<T> p = parameters<T>(a);
  const Tiles tiles(a.layout, tile_rows(a.width));
  const int64_t E = a.channels, stride = whole_vectors<T>(2 * p.half), rows = tile_rows(a.width) + p.halo();
  zero_padding(a.layout, a.y, E * sizeof(S));
  for_ranges(threads, tiles.size(), [&](int64_t begin, int64_t end) {
    Buffer<T> n(rows * stride), r(rows);
    for (int64_t i = begin; i < end; ++i) {
      const Tile& tile = tiles[i];
      const S* xv = static_cast<const S*>(a.xv) + tile.first_row * 2 * E;
      S* y = static_cast<S*>(a.y) + (tile.first_row + tile.begin) * E;
      load_window<S, T>(p, xv, Window(tile, p.left, p.right), n, stride, r);
      gate_rows<T>(p, n, stride, tile.rows(), [&](int64_t t, int64_t c, Vec<T> z) {
        store_channels(y + t * E, c, E, z);
      });
    }
  });
}

template <class S>
void backward(const GatedConvBackwardArgs& b, const Threads& threads) {
  using T = Compute<S>;
  const GatedConvArgs& a = b.forward;
  const GatedConv<T> p = parameters<T>(a);
  const Tiles tiles(a.layout, tile_rows(a.width));
  const int64_t E = a.channels, half = p.half, rows = tile_rows(a.width) + 2 * p.halo();
  const int64_t size = p.sums_size(), parts = number_of_parts(tiles.size(), size * sizeof(T));
  Buffer<T> sums(std::max<int64_t>(parts, 1) * size, T(0));
  zero_padding(a.layout, b.dxv, 2 * E * sizeof(S));
  for_ranges(threads, parts, [&](int64_t first_part, int64_t last_part) {
    Buffer<T> n(rows * 2 * half), r(rows), g(rows * half), d(rows * 2 * half);
    for (int64_t part = first_part; part < last_part; ++part)
      for (int64_t i = tiles.size() * part / parts; i < tiles.size() * (part + 1) / parts; ++i) {
        const Tile& tile = tiles[i];
        const S* xv = static_cast<const S*>(a.xv) + tile.first_row * 2 * E;
        const S* grad = static_cast<const S*>(b.grad) + tile.first_row * E;
        S* dxv = static_cast<S*>(b.dxv) + (tile.first_row + tile.begin) * 2 * E;
        load_window<S, T>(p, xv, Window(tile, p.halo(), p.halo()), n, 2 * half, r);
        const Window w(tile, p.right, p.left);
        zero<T>(g, w.first * half);
        zero<T>(g + w.last * half, (w.rows - w.last) * half);
        load_rows<S>(grad + (w.origin + w.first) * E, w.last - w.first, E, g + w.first * half, half, half);
        gated_conv_backward_rows<T>(p, tile.rows(), n, 2 * half, r, g, half, d, 2 * half, sums + part * size);
        for (int64_t t = 0; t < tile.rows(); ++t) {
          store_rows<S>(static_cast<T*>(d) + t * 2 * half, 0, 1, E, dxv + t * 2 * E);
          store_rows<S>(d + t * 2 * half + half, 0, 1, E, dxv + t * 2 * E + E);
        }
      }
  });
  add_parts<T>(sums, parts, size, threads);
  p.gradients(sums, static_cast<T*>(b.dconv_weight), static_cast<T*>(b.dconv_bias), static_cast<T*>(b.dnorm_weight));
}

}  // namespace

void gated_conv(const GatedConvArgs& args, const Threads& threads) {
  with_storage_type(args.dtype, [&](auto* p) { forward<Pointee<decltype(p)>>(args, threads); });
}

void gated_conv_backward(const GatedConvBackwardArgs& args, const Threads& threads) {
  with_storage_type(args.forward.dtype, [&](auto* p) { backward<Pointee<decltype(p)>>(args, threads); });
}

}  // namespace lyra::cpu::LYRA_ISA
