// One pass over y: a tile of tokens goes through GELU, the product and the gate while it is in L1 and L2, beside the
// packed weights. The backward makes the product again from y (a third more arithmetic) instead of reading 2 H saved
// numbers per token from memory. With a = gelu(y) mask, s = sigmoid(z2) and g = dL/dout:
//   dz1 = g s,  dz2 = g z1 s (1 - s),  dW = sum over tokens of dz a^T,  dy = (W^T dz) mask gelu'(y).
#include "gelu_glu.h"

#include "gelu_glu_math.h"
#include "linear.h"

namespace lyra::cpu::LYRA_ISA {
namespace {

// The mask of one sequence in whole panels; ones where there is none.
template <class T>
LYRA_INLINE void load_mask(const GeluGluArgs& args, int64_t sequence, T* mask) {
  const int64_t H = args.channels;
  if (args.mask)
    copy<T>(static_cast<const T*>(args.mask) + sequence * H, H, mask);
  else
    for (int64_t c = 0; c < H; ++c) mask[c] = T(1);
}

// a <- gelu(y) mask and, kSlope, slope <- mask gelu'(y), for rows of y; the padding up to whole panels is zero.
template <bool kSlope, class S, class T>
LYRA_INLINE void activate(const S* y, int64_t rows, int64_t channels, const T* mask, T* a, T* slope, int64_t stride) {
  const int64_t width = padded<T>(channels);
  for (int64_t t = 0; t < rows; ++t, y += channels, a += stride, slope += kSlope ? stride : 0) {
    const auto apply = [&](int64_t c, Vec<T> x) {
      const Vec<T> m = load(mask + c);
      const Normal<T> n = normal<T>(x);
      store(a + c, x * n.distribution * m);
      if constexpr (kSlope) store(slope + c, (n.distribution + x * n.density) * m);
    };
    over_channels<T>(channels, [&](int64_t c, int lanes) { apply(c, load_lanes(y + c, lanes)); });
    for (int64_t c = whole_vectors<T>(channels); c < width; c += kLanes<T>) store(a + c, Vec<T>{});
  }
}

// out <- z1 sigmoid(z2) + residual, z (rows, 2 half) in halves; residual may be null.
template <class S, class T>
LYRA_INLINE void gate(const T* z, int64_t stride, int64_t half, int64_t rows, int64_t channels, const S* residual,
                      S* out) {
  for (int64_t t = 0; t < rows; ++t, z += stride, out += channels) {
    for (int64_t c = 0; c < half; c += kLanes<T>) {
      Vec<T> value = load(z + c) * sigmoid<T>(load(z + half + c));
      if (residual) value += load_channels(residual, c, channels);
      store_channels(out, c, channels, value);
    }
    if (residual) residual += channels;
  }
}

// z <- dL/dz from grad = dL/dout.
template <class S, class T>
LYRA_INLINE void gate_backward(const S* grad, T* z, int64_t stride, int64_t half, int64_t rows, int64_t channels) {
  for (int64_t t = 0; t < rows; ++t, z += stride, grad += channels)
    for (int64_t c = 0; c < half; c += kLanes<T>) {
      const Vec<T> g = load_channels(grad, c, channels), s = sigmoid<T>(load(z + half + c)), dz1 = g * s;
      store(z + half + c, dz1 * load(z + c) * (T(1) - s));
      store(z + c, dz1);
    }
}

template <class S>
void forward(const GeluGluArgs& args, const Threads& threads) {
  using T = Compute<S>;
  const int64_t H = args.channels, half = whole_vectors<T>(H), max_rows = product_rows(0);
  const Linear<T> linear(args.weight, args.bias, 2, H, H, false, products_of<S>());
  const Tiles tiles(args.layout, max_rows);
  const int64_t a_stride = tile_stride<T>(H), z_stride = tile_stride<T>(linear.columns());
  zero_padding(args.layout, args.out, H * sizeof(S));
  for_ranges(threads, tiles.size(), [&](int64_t begin, int64_t end) {
    Buffer<T> a(max_rows * a_stride), z(max_rows * z_stride), mask(half, T(0));
    for (int64_t i = begin; i < end; ++i) {
      const Tile& tile = tiles[i];
      const int64_t first = (tile.first_row + tile.begin) * H;
      load_mask<T>(args, tile.sequence, mask);
      activate<false, S, T>(static_cast<const S*>(args.y) + first, tile.rows(), H, mask, a, nullptr, a_stride);
      linear.multiply(tile.rows(), a, a_stride, z, z_stride);
      const S* residual = args.residual ? static_cast<const S*>(args.residual) + first : nullptr;
      gate<S, T>(z, z_stride, half, tile.rows(), H, residual, static_cast<S*>(args.out) + first);
    }
  });
}

template <class S>
void backward(const GeluGluBackwardArgs& b, const Threads& threads) {
  using T = Compute<S>;
  const GeluGluArgs& args = b.forward;
  const int64_t H = args.channels, half = whole_vectors<T>(H), max_rows = product_rows(0);
  const Linear<T> linear(args.weight, args.bias, 2, H, H, true, products_of<S>());
  const Tiles tiles(args.layout, max_rows);
  const int64_t a_stride = tile_stride<T>(H), z_stride = tile_stride<T>(linear.columns());
  const int64_t size = linear.sums_size(), parts = number_of_parts(tiles.size(), size * sizeof(T));
  Buffer<T> sums(std::max<int64_t>(parts, 1) * size, T(0));
  zero_padding(args.layout, b.dy, H * sizeof(S));
  for_ranges(threads, parts, [&](int64_t first_part, int64_t last_part) {
    Buffer<T> a(max_rows * a_stride), slope(max_rows * a_stride), z(max_rows * z_stride), mask(half, T(0));
    for (int64_t part = first_part; part < last_part; ++part)
      for (int64_t i = tiles.size() * part / parts; i < tiles.size() * (part + 1) / parts; ++i) {
        const Tile& tile = tiles[i];
        const int64_t first = (tile.first_row + tile.begin) * H, rows = tile.rows();
        load_mask<T>(args, tile.sequence, mask);
        activate<true, S, T>(static_cast<const S*>(args.y) + first, rows, H, mask, a, slope, a_stride);
        linear.multiply(rows, a, a_stride, z, z_stride);
        gate_backward<S, T>(static_cast<const S*>(b.grad) + first, z, z_stride, half, rows, H);
        linear.add_gradients(rows, z, z_stride, a, a_stride, sums + part * size);
        linear.multiply_back(rows, z, z_stride, a, a_stride);
        S* dy = static_cast<S*>(b.dy) + first;
        for (int64_t t = 0; t < rows; ++t)
          for (int64_t c = 0; c < half; c += kLanes<T>)
            store_channels(dy + t * H, c, H, load(a + t * a_stride + c) * load(slope + t * a_stride + c));
      }
  });
  add_parts<T>(sums, parts, size, threads);
  linear.gradients(sums, b.dweight, b.dbias);
}

}  // namespace

void gelu_glu(const GeluGluArgs& args, const Threads& threads) {
  with_storage_type(args.dtype, [&](auto* p) { forward<Pointee<decltype(p)>>(args, threads); });
}

void gelu_glu_backward(const GeluGluBackwardArgs& args, const Threads& threads) {
  with_storage_type(args.forward.dtype, [&](auto* p) { backward<Pointee<decltype(p)>>(args, threads); });
}

}  // namespace lyra::cpu::LYRA_ISA
