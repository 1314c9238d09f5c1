// One pass over y: a tile of tokens goes through GELU, the product and the gate while it is in L1 and L2, beside the
// packed weights. The backward makes the product again from y (a third more arithmetic) instead of reading 2 H saved
// numbers per token from memory. With a = gelu(y) mask, s = sigmoid(z2) and g = dL/dout:
//   dz1 = g s,  dz2 = g z1 s (1 - s),  dW = sum over tokens of dz a^T,  dy = (W^T dz) mask gelu'(y).
#include "gelu_glu.h"

#include "activations.h"
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

// The cache lines of a tile, to be asked for in so many calls.
template <class E>
LYRA_INLINE LinesAhead tile_lines(const Activations<E>& x, const Tile& tile, int64_t calls) {
  return x.lines(tile.first_row, tile.begin, tile.rows(), calls);
}

// f(t, count): some rows at a time, which stay in L1 from being transposed to being used, as a tile beside z would not.
constexpr int64_t kSomeRows = 32;
template <class F>
LYRA_INLINE void over_rows(int64_t rows, F&& f) {
  for (int64_t t = 0; t < rows; t += kSomeRows) f(t, std::min(kSomeRows, rows - t));
}

// a <- gelu(y) mask and, kSlope, slope <- mask gelu'(y), for rows of y, which may be those of a; the padding up to whole
// panels is zero. ask() is called at each row (see LinesAhead).
template <bool kSlope, class S, class T, class Ask>
LYRA_INLINE void activate(const S* y, int64_t y_stride, int64_t rows, int64_t channels, const T* mask, T* a, T* slope,
                          int64_t stride, Ask&& ask) {
  const int64_t width = padded<T>(channels);
  for (int64_t t = 0; t < rows; ++t, y += y_stride, a += stride, slope += kSlope ? stride : 0) {
    ask();
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

// The same for a tile of y in either order of memory.
template <bool kSlope, class S, class T, class Ask>
LYRA_INLINE void activate(const Activations<const S>& y, const Tile& tile, int64_t channels, const T* mask, T* a,
                          T* slope, int64_t stride, Ask&& ask) {
  if (!y.channels_first()) {
    activate<kSlope, S, T>(y.at(tile.first_row, tile.begin, 0), channels, tile.rows(), channels, mask, a, slope, stride,
                          ask);
    return;
  }
  over_rows(tile.rows(), [&](int64_t t, int64_t rows) {
    T *to = a + t * stride, *to_slope = kSlope ? slope + t * stride : nullptr;
    y.load_rows(tile.first_row, tile.begin + t, rows, to, stride);
    activate<kSlope, T, T>(to, stride, rows, channels, mask, to, to_slope, stride, ask);
  });
}

// out <- z1 sigmoid(z2) + residual, z (rows, 2 half) in halves; residual may be null, or out.
template <class R, class S, class T>
LYRA_INLINE void gate(const T* z, int64_t stride, int64_t half, int64_t rows, int64_t channels, const R* residual,
                      int64_t residual_stride, S* out, int64_t out_stride) {
  for (int64_t t = 0; t < rows; ++t, z += stride, out += out_stride) {
    for (int64_t c = 0; c < half; c += kLanes<T>) {
      Vec<T> value = load(z + c) * sigmoid<T>(load(z + half + c));
      if (residual) value += load_channels(residual, c, channels);
      store_channels(out, c, channels, value);
    }
    if (residual) residual += residual_stride;
  }
}

// z <- dL/dz from grad = dL/dout.
template <class S, class T>
LYRA_INLINE void gate_backward(const S* grad, int64_t grad_stride, T* z, int64_t stride, int64_t half, int64_t rows,
                               int64_t channels) {
  for (int64_t t = 0; t < rows; ++t, z += stride, grad += grad_stride)
    for (int64_t c = 0; c < half; c += kLanes<T>) {
      const Vec<T> g = load_channels(grad, c, channels), s = sigmoid<T>(load(z + half + c)), dz1 = g * s;
      store(z + half + c, dz1 * load(z + c) * (T(1) - s));
      store(z + c, dz1);
    }
}

// z (2 half) = W a + b of one token, from the weights as they are.
template <class T>
void multiply_one(const GeluGluArgs& args, const T* a, int64_t half, T* z) {
  const int64_t H = args.channels;
  const T *weight = static_cast<const T*>(args.weight), *bias = static_cast<const T*>(args.bias);
  for (int64_t n = 0; n < 2 * H; ++n, weight += H) {
    Vec<T> sum{};
    over_channels<T>(H, [&](int64_t c, int lanes) { sum += load_lanes(weight + c, lanes) * load(a + c); });
    z[n < H ? n : n - H + half] = sum_lanes<T>(sum) + (bias ? bias[n] : T(0));
  }
}

// A few tokens, as generation has them: packing the weights would take longer than all else.
constexpr int64_t kFewRows = 12;
template <class S>
void forward_few(const GeluGluArgs& args) {
  using T = Compute<S>;
  const int64_t H = args.channels, half = whole_vectors<T>(H), stride = padded<T>(H);
  const Activations<const S> y(args.y, args.order, args.layout, H);
  const Activations<const S> residual(args.residual, args.residual_order, args.layout, H);
  const Activations<S> out(args.out, args.out_order, args.layout, H);
  out.zero_padding(args.layout);
  Buffer<T> a(stride), added(half), z(2 * half, T(0)), mask(half, T(0));
  for (int64_t s = 0; s < args.layout.sequences; ++s) {
    load_mask<T>(args, s, mask);
    const int64_t first = args.layout.begin(s), length = args.layout.length(s);
    for (int64_t t = 0; t < length; ++t) {
      activate<false, S, T>(y, Tile{s, first, length, t, t + 1}, H, mask, a, nullptr, stride, [] {});
      multiply_one<T>(args, a, half, z);
      if (args.residual) residual.load_row(first, t, added);
      gate<T, T, T>(z, 2 * half, half, 1, H, args.residual ? static_cast<T*>(added) : nullptr, 0, a, 0);
      out.store_row(first, t, a);
    }
  }
}

template <class S>
void forward(const GeluGluArgs& args, const Threads& threads) {
  if (args.layout.rows() <= kFewRows) return forward_few<S>(args);
  using T = Compute<S>;
  const int64_t H = args.channels, half = whole_vectors<T>(H), max_rows = product_rows(0);
  const Linear<T> linear(args.weight, args.bias, 2, H, H, false, products_of<S>());
  const Tiles tiles(args.layout, max_rows, args.out_order == Order::channels_first);
  const int64_t a_stride = tile_stride<T>(H), z_stride = tile_stride<T>(linear.columns());
  const Activations<const S> y(args.y, args.order, args.layout, H);
  const Activations<const S> residual(args.residual, args.residual_order, args.layout, H);
  const Activations<S> out(args.out, args.out_order, args.layout, H);
  out.zero_padding(args.layout);
  for_ranges(threads, tiles.size(), [&](int64_t begin, int64_t end) {
    Buffer<T> a(max_rows * a_stride), z(max_rows * z_stride), mask(half, T(0));
    for (int64_t i = begin; i < end; ++i) {
      const Tile& tile = tiles[i];
      const int64_t rows = tile.rows();
      load_mask<T>(args, tile.sequence, mask);
      LinesAhead result = tile_lines(out, tile, rows), added;
      if (args.residual) added = tile_lines(residual, tile, rows);
      LinesAhead next = i + 1 < end ? tile_lines(y, tiles[i + 1], rows) : LinesAhead();
      activate<false, S, T>(y, tile, H, mask, a, nullptr, a_stride, [&] {
        result.ask();
        added.ask();
        next.ask();
      });
      linear.multiply(rows, a, a_stride, z, z_stride);
      over_rows(rows, [&](int64_t t, int64_t some) {
        // From here on the tile of a is free for what has to be transposed.
        const int64_t token = tile.begin + t;
        const auto finish = [&](const auto* added, int64_t stride) {
          const T* from = z + t * z_stride;
          if (out.channels_first()) {
            gate(from, z_stride, half, some, H, added, stride, static_cast<T*>(a), a_stride);
            out.store_rows(tile.first_row, token, some, a, a_stride);
          } else {
            gate(from, z_stride, half, some, H, added, stride, out.at(tile.first_row, token, 0), H);
          }
        };
        if (args.residual && residual.channels_first()) {
          residual.load_rows(tile.first_row, token, some, a, a_stride);
          finish(static_cast<const T*>(a), a_stride);
        } else {
          finish(args.residual ? residual.at(tile.first_row, token, 0) : static_cast<const S*>(nullptr), H);
        }
      });
    }
  });
}

template <class S>
void backward(const GeluGluBackwardArgs& b, const Threads& threads) {
  using T = Compute<S>;
  const GeluGluArgs& args = b.forward;
  const int64_t H = args.channels, half = whole_vectors<T>(H), max_rows = product_rows(0);
  const Linear<T> linear(args.weight, args.bias, 2, H, H, true, products_of<S>());
  const bool across = args.order == Order::channels_first || b.grad_order == Order::channels_first;
  const Tiles tiles(args.layout, max_rows, across);
  const int64_t a_stride = tile_stride<T>(H), z_stride = tile_stride<T>(linear.columns());
  const int64_t size = linear.sums_size(), parts = number_of_parts(tiles.size(), size * sizeof(T));
  Buffer<T> sums(std::max<int64_t>(parts, 1) * size, T(0));
  const Activations<const S> y(args.y, args.order, args.layout, H), grad(b.grad, b.grad_order, args.layout, H);
  const Activations<S> dy(b.dy, args.order, args.layout, H);
  dy.zero_padding(args.layout);
  for_ranges(threads, parts, [&](int64_t first_part, int64_t last_part) {
    Buffer<T> a(max_rows * a_stride), slope(max_rows * a_stride), z(max_rows * z_stride), mask(half, T(0));
    Buffer<T> transposed(kSomeRows * a_stride);
    for (int64_t part = first_part; part < last_part; ++part)
      for (int64_t i = tiles.size() * part / parts; i < tiles.size() * (part + 1) / parts; ++i) {
        const Tile& tile = tiles[i];
        const int64_t rows = tile.rows();
        load_mask<T>(args, tile.sequence, mask);
        LinesAhead given = tile_lines(grad, tile, rows), result = tile_lines(dy, tile, rows);
        LinesAhead next = i + 1 < tiles.size() ? tile_lines(y, tiles[i + 1], rows) : LinesAhead();
        activate<true, S, T>(y, tile, H, mask, a, slope, a_stride, [&] {
          given.ask();
          result.ask();
          next.ask();
        });
        linear.multiply(rows, a, a_stride, z, z_stride);
        if (grad.channels_first())
          over_rows(rows, [&](int64_t t, int64_t some) {
            grad.load_rows(tile.first_row, tile.begin + t, some, transposed, a_stride);
            gate_backward<T, T>(transposed, a_stride, z + t * z_stride, z_stride, half, some, H);
          });
        else
          gate_backward<S, T>(grad.at(tile.first_row, tile.begin, 0), H, z, z_stride, half, rows, H);
        linear.add_gradients(rows, z, z_stride, a, a_stride, sums + part * size);
        linear.multiply_back(rows, z, z_stride, a, a_stride);
        over_rows(rows, [&](int64_t first, int64_t some) {
          const auto scale = [&](auto* to, int64_t stride) {
            for (int64_t t = 0; t < some; ++t)
              for (int64_t c = 0, at = (first + t) * a_stride; c < half; c += kLanes<T>)
                store_channels(to + t * stride, c, H, load(a + at + c) * load(slope + at + c));
          };
          if (dy.channels_first()) {
            scale(static_cast<T*>(transposed), a_stride);
            dy.store_rows(tile.first_row, tile.begin + first, some, transposed, a_stride);
          } else {
            scale(dy.at(tile.first_row, tile.begin + first, 0), H);
          }
        });
      }
  });
  add_parts<T>(sums, parts, size, threads);
  linear.gradients(sums, b.dweight, b.dbias);
}

// Sequences that nothing tells apart as one: many short ones, of a token each where they are generated, fill few tiles.
GeluGluArgs as_one(GeluGluArgs args, bool channels_last) {
  Layout& layout = args.layout;
  if (channels_last && args.order == Order::channels_last && !layout.lengths && !layout.cu_seqlens && !args.mask) {
    layout.max_length = layout.rows();
    layout.sequences = 1;
  }
  return args;
}

}  // namespace

void gelu_glu(const GeluGluArgs& args, const Threads& threads) {
  const GeluGluArgs one = as_one(args, args.residual_order == Order::channels_last && args.out_order == Order::channels_last);
  with_storage_type(args.dtype, [&](auto* p) { forward<Pointee<decltype(p)>>(one, threads); });
}

void gelu_glu_backward(const GeluGluBackwardArgs& args, const Threads& threads) {
  GeluGluBackwardArgs one = args;
  one.forward = as_one(args.forward, args.grad_order == Order::channels_last);
  with_storage_type(args.forward.dtype, [&](auto* p) { backward<Pointee<decltype(p)>>(one, threads); });
}

}  // namespace lyra::cpu::LYRA_ISA
