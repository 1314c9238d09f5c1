// The gated convolution on one tile of tokens, forward and backward; shared by gated_conv and pgc.
//
// With n = xv r (the norm without its weight), x and v its halves, and the parameters folded into
//   a_j = w_j nw_x nw_v,  b' = b nw_v         (w conv weight, b conv bias, nw_x and nw_v halves of the norm's weight)
// the block is  c_t = sum_j a_j x_{t+j-left} + b',  z_t = v_t c_t:  the norm's weight costs nothing per token.
// Backward, from g = dL/dz, with e_t = g_t v_t:
//   dv_t = g_t c_t,  dx_s = sum_j a_j e_{s-j+left},  dxv = r (dn - n mean(dn n)), dn = (dx, dv)
// and every parameter's gradient follows from Q_j = sum_t e_t x_{t+j-left} and Q_b = sum_t e_t:
//   dw_j = nw_x nw_v Q_j,  db = nw_v Q_b,  dnw_x = nw_v sum_j w_j Q_j,  dnw_v = nw_x sum_j w_j Q_j + b Q_b.
//
// In a tile, v's columns start at `half`, the channels rounded up to whole vectors; padding columns hold zeros.
#pragma once

#include "tile.h"

namespace lyra::cpu::LYRA_ISA {

template <class T>
struct GatedConv {
  int64_t channels, half, width, left, right;
  bool normalised;
  T eps;
  const T *conv_weight, *conv_bias, *norm_weight;  // as given: (channels, width), (channels), (2 channels); or null
  Buffer<T> taps, taps_reversed;                   // (width, half)
  Buffer<T> bias;                                  // (half)

  GatedConv(int64_t channels_, int64_t width_, bool causal, double eps_, const void* weight, const void* bias_,
            const void* norm)
      : channels(channels_),
        half(whole_vectors<T>(channels_)),
        width(width_),
        left(causal ? width_ - 1 : (width_ - 1) / 2),
        right(width_ - 1 - left),
        normalised(norm != nullptr),
        eps(static_cast<T>(eps_)),
        conv_weight(static_cast<const T*>(weight)),
        conv_bias(static_cast<const T*>(bias_)),
        norm_weight(static_cast<const T*>(norm)),
        taps(width_ * half, T(0)),
        taps_reversed(width_ * half, T(0)),
        bias(half, T(0)) {
    for (int64_t c = 0; c < channels; ++c) {
      const T nv = norm_v(c), nx = norm_x(c);
      for (int64_t j = 0; j < width; ++j)
        taps[j * half + c] = taps_reversed[(width - 1 - j) * half + c] = conv_weight[c * width + j] * nx * nv;
      if (conv_bias) bias[c] = conv_bias[c] * nv;
    }
  }
  T norm_x(int64_t c) const { return normalised ? norm_weight[c] : T(1); }
  T norm_v(int64_t c) const { return normalised ? norm_weight[channels + c] : T(1); }

  // Rows that a tile's neighbours on both sides add: forward, and backward (which needs the gradient's own reach).
  int64_t halo() const { return width - 1; }
  int64_t sums_size() const { return (width + 1) * half; }

  // The parameters' gradients from the sums Q_0 .. Q_{width-1}, Q_b; null outputs are skipped.
  void gradients(const T* sums, T* dconv_weight, T* dconv_bias, T* dnorm_weight) const {
    for (int64_t c = 0; c < channels; ++c) {
      const T nx = norm_x(c), nv = norm_v(c), qb = sums[width * half + c];
      T wq = 0;
      for (int64_t j = 0; j < width; ++j) {
        wq += conv_weight[c * width + j] * sums[j * half + c];
        dconv_weight[c * width + j] = nx * nv * sums[j * half + c];
      }
      if (dconv_bias) dconv_bias[c] = nv * qb;
      if (dnorm_weight) {
        dnorm_weight[c] = nv * wq;
        dnorm_weight[channels + c] = nx * wq + (conv_bias ? conv_bias[c] * qb : T(0));
      }
    }
  }
};

// emit(t, c, start[c] + sum_j taps[j][c] x[t + j][c]) for every row t and every vector of channels c.
// Eight rows at a time: the taps are loaded once for all of them, and eight sums hide the multiply-add's latency.
template <class T, class F>
LYRA_INLINE void convolve_rows(const T* x, int64_t stride, int64_t rows, int64_t half, int64_t width, const T* taps,
                               const T* start, F&& emit) {
  constexpr int W = kLanes<T>, kRows = 8;
  for (int64_t t = 0; t < rows;) {
    const int64_t block = rows - t >= kRows ? kRows : 1;
    for (int64_t c = 0; c < half; c += W) {
      const T* in = x + t * stride + c;
      const Vec<T> first = start ? load(start + c) : Vec<T>{};
      if (block == kRows) {
        Vec<T> acc[kRows];
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) acc[i] = first;
        for (int64_t j = 0; j < width; ++j, in += stride) {
          const Vec<T> tap = load(taps + j * half + c);
#pragma GCC unroll 8
          for (int i = 0; i < kRows; ++i) acc[i] += tap * load(in + i * stride);
        }
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) emit(t + i, c, acc[i]);
      } else {
        Vec<T> acc = first;
        for (int64_t j = 0; j < width; ++j, in += stride) acc += load(taps + j * half + c) * load(in);
        emit(t, c, acc);
      }
    }
    t += block;
  }
}

// sums[j][c] += sum over rows of e[t][c] x[t + j][c] for kTaps taps j; and total[c] += sum of e[t][c] if not null.
template <int kTaps, class T>
__attribute__((noinline)) void correlate_taps(const T* e, int64_t e_stride, const T* x, int64_t stride, int64_t rows,
                                              int64_t half, T* sums, T* total) {
  constexpr int W = kLanes<T>;
  for (int64_t c = 0; c < half; c += W) {
    Vec<T> even[kTaps + 1], odd[kTaps + 1];
#pragma GCC unroll 8
    for (int j = 0; j <= kTaps; ++j) even[j] = odd[j] = Vec<T>{};
    int64_t t = 0;
    for (; t + 2 <= rows; t += 2) {
      const Vec<T> e0 = load(e + t * e_stride + c), e1 = load(e + (t + 1) * e_stride + c);
      const T* in = x + t * stride + c;
#pragma GCC unroll 8
      for (int j = 0; j < kTaps; ++j) {
        even[j] += e0 * load(in + j * stride);
        odd[j] += e1 * load(in + (j + 1) * stride);
      }
      even[kTaps] += e0;
      odd[kTaps] += e1;
    }
    if (t < rows) {
      const Vec<T> e0 = load(e + t * e_stride + c);
#pragma GCC unroll 8
      for (int j = 0; j < kTaps; ++j) even[j] += e0 * load(x + (t + j) * stride + c);
      even[kTaps] += e0;
    }
#pragma GCC unroll 8
    for (int j = 0; j < kTaps; ++j) store(sums + j * half + c, load(sums + j * half + c) + even[j] + odd[j]);
    if (total) store(total + c, load(total + c) + even[kTaps] + odd[kTaps]);
  }
}

// sums (width + 1, half): all taps, then the sum of e.
template <class T>
LYRA_INLINE void correlate_rows(const T* e, int64_t e_stride, const T* x, int64_t stride, int64_t rows, int64_t half,
                                int64_t width, T* sums) {
  T* total = sums + width * half;
  for (int64_t j = 0; j < width; total = nullptr) {
    T* out = sums + j * half;
    const T* in = x + j * stride;
    switch (std::min<int64_t>(width - j, 4)) {
      case 4: correlate_taps<4>(e, e_stride, in, stride, rows, half, out, total); break;
      case 3: correlate_taps<3>(e, e_stride, in, stride, rows, half, out, total); break;
      case 2: correlate_taps<2>(e, e_stride, in, stride, rows, half, out, total); break;
      default: correlate_taps<1>(e, e_stride, in, stride, rows, half, out, total);
    }
    j += 4;
  }
}

// Where a tile's tokens lie among rows that begin `before` tokens ahead of it and end `after` tokens behind it:
// rows [first, last) exist in the sequence, the others are outside.
struct Window {
  int64_t origin, rows, first, last;  // origin: the token of row 0
  Window(const Tile& tile, int64_t before, int64_t after)
      : origin(tile.begin - before),
        rows(tile.rows() + before + after),
        first(std::max<int64_t>(0, -origin)),
        last(std::min(rows, tile.length - origin)) {}
};

// z_t = v_t c_t for `rows` rows; n starts `left` rows ahead of the first. emit(t, c, z).
template <class T, class F>
LYRA_INLINE void gate_rows(const GatedConv<T>& p, const T* n, int64_t stride, int64_t rows, F&& emit) {
  const T* v = n + p.left * stride + p.half;
  convolve_rows<T>(n, stride, rows, p.half, p.width, p.taps, p.bias, [&](int64_t t, int64_t c, Vec<T> conv) {
    emit(t, c, conv * load(v + t * stride + c));
  });
}

// From dL/dz to dL/dxv on one tile of `rows` tokens, and the sums for the parameters' gradients.
//   n: normalised rows, from width-1 tokens ahead of the tile to width-1 behind it; r: their scales
//   g: dL/dz, from `right` tokens ahead to `left` behind, zeros outside the sequence; overwritten
//   d: (rows, 2 half), the result
template <class T>
__attribute__((noinline)) void gated_conv_backward_rows(const GatedConv<T>& p, int64_t rows, const T* n,
                                                        int64_t stride, const T* r, T* g, int64_t g_stride, T* d,
                                                        int64_t d_stride, T* sums) {
  constexpr int W = kLanes<T>;
  const int64_t half = p.half;
  const T* core_g = g + p.right * g_stride;
  convolve_rows<T>(n + p.right * stride, stride, rows, half, p.width, p.taps, p.bias,
                   [&](int64_t t, int64_t c, Vec<T> conv) {
                     store(d + t * d_stride + half + c, conv * load(core_g + t * g_stride + c));
                   });
  const T* v = n + p.left * stride + half;
  for (int64_t t = 0; t < rows + p.halo(); ++t)
    for (int64_t c = 0; c < half; c += W)
      store(g + t * g_stride + c, load(g + t * g_stride + c) * load(v + t * stride + c));
  correlate_rows<T>(core_g, g_stride, n + p.right * stride, stride, rows, half, p.width, sums);
  convolve_rows<T>(g, g_stride, rows, half, p.width, p.taps_reversed, nullptr,
                   [&](int64_t t, int64_t c, Vec<T> dx) { store(d + t * d_stride + c, dx); });
  if (!p.normalised) return;
  const T* core_n = n + p.halo() * stride;
  const T* core_r = r + p.halo();
  for (int64_t t = 0; t < rows; ++t) {
    const T* nt = core_n + t * stride;
    T* dt = d + t * d_stride;
    Vec<T> even{}, odd{};
    for (int64_t c = 0; c < half; c += W) {
      even += load(nt + c) * load(dt + c);
      odd += load(nt + half + c) * load(dt + half + c);
    }
    const T mean = sum_lanes<T>(even + odd) / T(2 * p.channels);
    for (int64_t c = 0; c < 2 * half; c += W) store(dt + c, core_r[t] * (load(dt + c) - load(nt + c) * mean));
  }
}

}  // namespace lyra::cpu::LYRA_ISA
