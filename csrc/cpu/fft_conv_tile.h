// Products of the spectra of real sequences that are transformed as half as many complex points.
//
// A tile of real rows x_0, x_1, ... is as it lies one of complex points z_t = x_2t + i x_2t+1. With E and O the spectra of
// the even and of the odd rows,
//   Z_k = E_k + i O_k,   conj Z_-k = E_k - i O_k,
// and the cyclic convolution with a kernel whose even and odd spectra are A and B is, w = exp(-2 pi i k / points),
//   E' = A E + w B O,   O' = B E + A O,
// so that the spectrum of all rows is never made. The adjoint, a correlation, has the conjugate transpose of that matrix.
#pragma once

#include "fft.h"

namespace lyra::cpu::LYRA_ISA {

template <class T>
LYRA_INLINE Point<T> operator*(Point<T> a, Point<T> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
// conj(a) b
template <class T>
LYRA_INLINE Point<T> along(Point<T> a, Point<T> b) {
  return {a.re * b.re + a.im * b.im, a.re * b.im - a.im * b.re};
}

// Twice the spectra of the even and the odd rows.
template <class T>
struct Halves {
  Point<T> even, odd;
};
template <class T>
LYRA_INLINE Halves<T> split(Point<T> z, Point<T> negative) {
  return {{z.re + negative.re, z.im - negative.im}, {z.im + negative.im, negative.re - z.re}};
}
template <class T>
LYRA_INLINE void join(Halves<T> h, T* z, T* negative) {
  store_point(negative, Point<T>{h.even.re + h.odd.im, h.odd.re - h.even.im});
  store_point(z, Point<T>{h.even.re - h.odd.im, h.even.im + h.odd.re});
}

// What is made once a call: the transform, and its root of each pair of frequencies.
template <class T>
struct Transform {
  Fourier<T> fourier;
  Mirror mirror;
  Buffer<T> roots;  // (pairs, 2)

  explicit Transform(int64_t points) : fourier(points), mirror(fourier.mirror()), roots(2 * mirror.pairs()) {
    mirror.for_pairs([&](int64_t pair, int64_t position, int64_t) {
      const T* root = fourier.root_at(position);
      roots[2 * pair] = root[0];
      roots[2 * pair + 1] = root[1];
    });
  }
  int64_t tile_size() const { return fourier.points() * kPoint<T>; }
  int64_t spectrum_size() const { return 2 * mirror.pairs() * kPoint<T>; }

  // A kernel's spectra (pairs, 2, point) from the transform of its lags, so scaled that convolve() and an inverse
  // transform need no other factor.
  void spectrum_of(const T* lags, T* spectrum) const {
    const T scale = T(0.25) / static_cast<T>(fourier.points());
    mirror.for_pairs([&](int64_t pair, int64_t position, int64_t negative) {
      const Halves<T> h = split(load_point(lags + position * kPoint<T>), load_point(lags + negative * kPoint<T>));
      T* to = spectrum + 2 * pair * kPoint<T>;
      store_point(to, Point<T>{h.even.re * scale, h.even.im * scale});
      store_point(to + kPoint<T>, Point<T>{h.odd.re * scale, h.odd.im * scale});
    });
  }
  // out <- the spectrum of the convolution, from that of x; they may be one.
  void convolve(const T* spectrum, const T* x, T* out) const {
    mirror.for_pairs([&](int64_t pair, int64_t position, int64_t negative) {
      const T* s = spectrum + 2 * pair * kPoint<T>;
      const Point<T> a = load_point(s), b = load_point(s + kPoint<T>);
      const Halves<T> h = split(load_point(x + position * kPoint<T>), load_point(x + negative * kPoint<T>));
      const Halves<T> product{a * h.even + times(b * h.odd, roots + 2 * pair), b * h.even + a * h.odd};
      join(product, out + position * kPoint<T>, out + negative * kPoint<T>);
    });
  }
  // g <- the spectrum of the gradient of x, from that of the gradient of the convolution; sums (pairs, 2, point) gets that
  // of the spectra, 4 conj(even, odd) by (even', odd').
  void correlate(const T* spectrum, const T* x, T* g, T* sums) const {
    mirror.for_pairs([&](int64_t pair, int64_t position, int64_t negative) {
      const T *s = spectrum + 2 * pair * kPoint<T>, *root = roots + 2 * pair;
      T *z = g + position * kPoint<T>, *z_negative = g + negative * kPoint<T>;
      const Halves<T> h = split(load_point(x + position * kPoint<T>), load_point(x + negative * kPoint<T>));
      const Halves<T> grad = split(load_point(z), load_point(z_negative));
      T *da = sums + 2 * pair * kPoint<T>, *db = da + kPoint<T>;
      store_point(da, load_point(da) + along(h.even, grad.even) + along(h.odd, grad.odd));
      store_point(db, load_point(db) + times<true>(along(h.odd, grad.even), root) + along(h.even, grad.odd));
      const Point<T> a = load_point(s), b = load_point(s + kPoint<T>);
      const Halves<T> dx{along(a, grad.even) + along(b, grad.odd),
                         times<true>(along(b, grad.even), root) + along(a, grad.odd)};
      join(dx, z, z_negative);
    });
  }
  // The transform of the lags' gradient from the sums.
  void lags_from(const T* sums, T* lags) const {
    const T scale = T(0.25) / static_cast<T>(fourier.points());
    mirror.for_pairs([&](int64_t pair, int64_t position, int64_t negative) {
      const Point<T> a = load_point(sums + 2 * pair * kPoint<T>), b = load_point(sums + (2 * pair + 1) * kPoint<T>);
      const Halves<T> h{{a.re * scale, a.im * scale}, {b.re * scale, b.im * scale}};
      join(h, lags + position * kPoint<T>, lags + negative * kPoint<T>);
    });
  }
};

}  // namespace lyra::cpu::LYRA_ISA
