// One pass over u: a tile of tokens goes through both products, the norms, the convolution and the gate while it is
// in L1 and L2, beside the packed weights. Two thirds of the arithmetic of a block of equal widths is the first product,
// so its halo (width-1 rows of a tile that the neighbour projects too) is what the tile's length is chosen for.
#include "pgc.h"

#include "pgc_tile.h"

namespace lyra::cpu::LYRA_ISA {
namespace {

template <class S>
void forward(const PgcArgs& a, const Threads& threads) {
  using T = Compute<S>;
  const Pgc<T> p(a, false, products_of<S>());
  const int64_t halo = p.gate.halo(), max_rows = product_rows(halo), rows = max_rows + halo;
  const Tiles tiles(a.layout, max_rows);
  const int64_t n_stride = tile_stride<T>(p.in.columns()), z_stride = tile_stride<T>(a.channels);
  const int64_t o_stride = tile_stride<T>(a.out);
  zero_padding(a.layout, a.y, a.out * sizeof(S));
  for_ranges(threads, tiles.size(), [&](int64_t begin, int64_t end) {
    Buffer<T> u(rows * tile_stride<T>(a.in)), n(rows * n_stride), r(rows), z(max_rows * z_stride);
    Buffer<T> o(max_rows * o_stride);
    for (int64_t i = begin; i < end; ++i) {
      const Tile& tile = tiles[i];
      project_window<S, T>(p, static_cast<const S*>(a.u) + tile.first_row * a.in,
                           Window(tile, p.gate.left, p.gate.right), u, n, n_stride, r);
      gate_rows<T>(p.gate, n, n_stride, tile.rows(),
                   [&](int64_t t, int64_t c, Vec<T> value) { store(z + t * z_stride + c, value); });
      p.out.multiply(tile.rows(), z, z_stride, o, o_stride);
      const int64_t first = (tile.first_row + tile.begin) * a.out;
      S* y = static_cast<S*>(a.y) + first;
      const S* residual = a.residual ? static_cast<const S*>(a.residual) + first : nullptr;
      if (!p.out_normalised && !residual) {
        store_rows<S, T>(o, o_stride, tile.rows(), a.out, y);
        continue;
      }
      if (p.out_normalised) inverse_rms<T>(o, o_stride, tile.rows(), p.out.width(), a.out, p.gate.eps, r);
      for (int64_t t = 0; t < tile.rows(); ++t)
        for (int64_t c = 0; c < a.out; c += kLanes<T>) {
          Vec<T> value = load(o + t * o_stride + c);
          if (p.out_normalised) value = value * r[t] * load(p.out_norm + c);
          if (residual) value += load_channels(residual + t * a.out, c, a.out);
          store_channels(y + t * a.out, c, a.out, value);
        }
    }
  });
}

}  // namespace

void pgc(const PgcArgs& args, const Threads& threads) {
  with_storage_type(args.dtype, [&](auto* p) { forward<Pointee<decltype(p)>>(args, threads); });
}

}  // namespace lyra::cpu::LYRA_ISA
