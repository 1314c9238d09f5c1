// Forward of the gated convolution; see gated_conv.h for the shapes and gated_conv.cuh for the tile.
#include "gated_conv.cuh"

namespace lyra::cuda {
namespace {

template <class T>
struct ForwardPointers {
  const T* xv;
  const Compute<T>*weight, *bias, *norm;
  T* out;
};

// Parameters in shared memory, when staged: taps (k, E) with the norm's weight of x folded in, the norm's weight of v
// (E), the bias (E).
template <class T, int N, bool STAGED>
__global__ void __launch_bounds__(kGatedThreads, kGatedBlocks)
    gated_conv_forward(ForwardPointers<T> p, Layout layout, GatedShape shape, Compute<T> eps) {
  using R = Compute<T>;
  using Row = ParameterRow<R, N>;
  DYNAMIC_SHARED(unsigned char, memory);
  const int E = shape.channels;
  const int width = shape.width;
  GatedTile<T, N, STAGED> tile{shape, find_tile(layout, blockIdx.x, shape.shift), p.xv, nullptr, nullptr, nullptr, 2};
  if (tile.tile.start >= tile.tile.rows) return;
  tile.inverse = reinterpret_cast<R*>(memory);
  memory += (shape.rows() * sizeof(R) + 15) / 16 * 16;
  tile.staged = reinterpret_cast<T*>(memory);
  R* taps = reinterpret_cast<R*>(memory + (shape.rows() * 2 * E * sizeof(T) + 15) / 16 * 16);
  if (STAGED)
    stage_parameters<Row>(taps, reinterpret_cast<R*>(memory), E, width, width + 2, [&](int i) {
      if (i < E * width) return p.weight[i] * (p.norm ? p.norm[i / width] : R(1));
      const int e = i - E * width;
      if (e < E) return p.norm ? p.norm[E + e] : R(1);
      return p.bias ? p.bias[e - E] : R(0);
    });
  tile.fill(p.norm, eps);
  __syncthreads();

  const int lane = threadIdx.x % shape.lanes, groups = kGatedThreads / shape.lanes;
  for (int t = threadIdx.x / shape.lanes; t < shape.tokens; t += groups) {
    if (tile.tile.start + t >= tile.tile.rows) break;
    const int row = t + shape.before;
    const bool real = tile.inside(row);
    for (int c = lane * N; c < E; c += shape.lanes * N) {
      R sum[N] = {}, value[N], v[N] = {}, tap[N], scale[N], bias[N];
      if (real) {
        for (int j = 0; j < width; ++j) {
          tile.read(row - shape.left + j, 0, c, value);
          const R inverse = tile.inverse[row - shape.left + j];
          if (STAGED) {
            Row::read(taps + j * E, c, E, tap);
          } else {
            for (int i = 0; i < N; ++i) tap[i] = p.weight[(c + i) * width + j] * (p.norm ? p.norm[c + i] : R(1));
          }
#pragma unroll
          for (int i = 0; i < N; ++i) sum[i] += value[i] * inverse * tap[i];
        }
        if (STAGED) {
          Row::read(taps + width * E, c, E, scale);
          Row::read(taps + (width + 1) * E, c, E, bias);
        } else {
          for (int i = 0; i < N; ++i) {
            scale[i] = p.norm ? p.norm[E + c + i] : R(1);
            bias[i] = p.bias ? p.bias[c + i] : R(0);
          }
        }
        tile.read(row, 1, c, v);
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] *= tile.inverse[row] * scale[i] * (sum[i] + bias[i]);
      }
      store<N>(p.out + tile.global_row(row) * E + c, v);
    }
  }
}

template <class T, int N, bool STAGED>
void run_forward(const GatedConvArgs& args, const GatedShape& shape, int64_t extra) {
  using R = Compute<T>;
  launch("gated_conv_forward", gated_conv_forward<T, N, STAGED>, args.layout.tiles(shape.tokens), kGatedThreads,
         staged_bytes<T>(shape, 2, STAGED ? extra : 0), args.stream,
         ForwardPointers<T>{static_cast<const T*>(args.xv), static_cast<const R*>(args.conv_weight),
                            static_cast<const R*>(args.conv_bias), static_cast<const R*>(args.norm_weight),
                            static_cast<T*>(args.out)},
         args.layout, shape, static_cast<R>(args.eps));
}

}  // namespace

void gated_conv(const GatedConvArgs& args) {
  if (args.layout.rows() == 0 || args.channels == 0) return;
  with_storage_type(args.dtype, [&](auto* p) {
    using T = Pointee<decltype(p)>;
    const bool wide = vectorizable<T>(args.channels, args.xv, args.out);
    const int64_t extra = args.channels * (args.width + 2);
    const GatedShape shape = choose_shape<T>(args, 2, false, extra, wide ? kVector<T> : 1);
    with_width<T>(wide, [&](auto width) {
      constexpr int N = decltype(width)::value;
      shape.staged ? run_forward<T, N, true>(args, shape, extra) : run_forward<T, N, false>(args, shape, extra);
    });
  });
}

}  // namespace lyra::cuda
