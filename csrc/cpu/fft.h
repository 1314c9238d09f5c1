// Complex Fourier transforms of a tile in place, one in each lane.
//
// A vector holds the same point of as many channels as it has lanes, so that butterflies know nothing of lanes: no
// shuffles, no strides, and the twiddle factors are scalars. PyTorch's transforms of one row after the other prepare
// themselves anew at every call, which takes as long as fifteen rows, and make some 10 flops a cycle at 2000 points.
// Predicted for a convolution of 8 x 1000 x 64 floats with AVX-512: 0.75 ms; measured 1.3 to 1.5 (before 3.4 to 5): loads
// and stores of activations take 30 % of it. Asking for their lines at the butterflies changed nothing.
//
// Forward goes from points in order to frequencies in the order that decimation in frequency leaves them in, inverse back
// from there (unnormalised), so that nothing is ever put in order; what is multiplied in between knows that order (see
// Mirror). Lengths are R 2^m, R one of 1, 3, 5: no length is further than a third above what is needed. Large transforms
// go depth first, so that all but the first passes work in cache.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>

#include "memory.h"
#include "simd.h"

namespace lyra::cpu::LYRA_ISA {

template <class T>
struct Point {
  Vec<T> re, im;
};
template <class T>
constexpr int kPoint = 2 * kLanes<T>;  // elements of a point in a tile: re, then im

template <class T>
LYRA_INLINE Point<T> load_point(const T* p) {
  return {load(p), load(p + kLanes<T>)};
}
template <class T>
LYRA_INLINE void store_point(T* p, Point<T> z) {
  store(p, z.re);
  store(p + kLanes<T>, z.im);
}
template <class T>
LYRA_INLINE Point<T> operator+(Point<T> a, Point<T> b) {
  return {a.re + b.re, a.im + b.im};
}
template <class T>
LYRA_INLINE Point<T> operator-(Point<T> a, Point<T> b) {
  return {a.re - b.re, a.im - b.im};
}
// z times w, or times its conjugate.
template <bool kConjugate = false, class T>
LYRA_INLINE Point<T> times(Point<T> z, const T* w) {
  if constexpr (kConjugate) return {z.re * w[0] + z.im * w[1], z.im * w[0] - z.re * w[1]};
  return {z.re * w[0] - z.im * w[1], z.im * w[0] + z.re * w[1]};
}
// z times -i, or, kInverse, times i.
template <bool kInverse, class T>
LYRA_INLINE Point<T> turned(Point<T> z) {
  if constexpr (kInverse) return {-z.im, z.re};
  return {z.im, -z.re};
}

// z[q] <- sum_r z[r] exp(-+ 2 pi i q r / R)
template <int R, bool kInverse, class T>
LYRA_INLINE void butterfly(Point<T> (&z)[R]) {
  if constexpr (R == 2) {
    const Point<T> a = z[0];
    z[0] = a + z[1];
    z[1] = a - z[1];
  } else if constexpr (R == 3) {
    constexpr T kSin = static_cast<T>(0.86602540378443864676);
    const Point<T> sum = z[1] + z[2], difference = turned<kInverse>(z[1] - z[2]);
    const Point<T> middle{z[0].re - sum.re * T(0.5), z[0].im - sum.im * T(0.5)};
    const Point<T> side{difference.re * kSin, difference.im * kSin};
    z[0] = z[0] + sum;
    z[1] = middle + side;
    z[2] = middle - side;
  } else if constexpr (R == 4) {
    const Point<T> a = z[0] + z[2], b = z[0] - z[2], c = z[1] + z[3], d = turned<kInverse>(z[1] - z[3]);
    z[0] = a + c;
    z[1] = b + d;
    z[2] = a - c;
    z[3] = b - d;
  } else if constexpr (R == 5) {
    constexpr T kCos1 = static_cast<T>(0.30901699437494742410), kCos2 = static_cast<T>(-0.80901699437494742410);
    constexpr T kSin1 = static_cast<T>(0.95105651629515357212), kSin2 = static_cast<T>(0.58778525229247312917);
    const Point<T> s1 = z[1] + z[4], s2 = z[2] + z[3];
    const Point<T> d1 = turned<kInverse>(z[1] - z[4]), d2 = turned<kInverse>(z[2] - z[3]);
    const Point<T> m1{z[0].re + s1.re * kCos1 + s2.re * kCos2, z[0].im + s1.im * kCos1 + s2.im * kCos2};
    const Point<T> m2{z[0].re + s1.re * kCos2 + s2.re * kCos1, z[0].im + s1.im * kCos2 + s2.im * kCos1};
    const Point<T> n1{d1.re * kSin1 + d2.re * kSin2, d1.im * kSin1 + d2.im * kSin2};
    const Point<T> n2{d1.re * kSin2 - d2.re * kSin1, d1.im * kSin2 - d2.im * kSin1};
    z[0] = z[0] + s1 + s2;
    z[1] = m1 + n1;
    z[2] = m2 + n2;
    z[3] = m2 - n2;
    z[4] = m1 - n1;
  } else {
    static_assert(R == 8, "no such butterfly");
    constexpr T kHalf[2] = {static_cast<T>(0.70710678118654752440), static_cast<T>(-0.70710678118654752440)};
    Point<T> even[4] = {z[0], z[2], z[4], z[6]}, odd[4] = {z[1], z[3], z[5], z[7]};
    butterfly<4, kInverse>(even);
    butterfly<4, kInverse>(odd);
    odd[1] = times<kInverse>(odd[1], kHalf);
    odd[2] = turned<kInverse>(odd[2]);
    odd[3] = turned<kInverse>(times<kInverse>(odd[3], kHalf));
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
      z[q] = even[q] + odd[q];
      z[q + 4] = even[q] - odd[q];
    }
  }
}

// The block where frequencies q mod R go: bits reversed, so that merged passes of radix 2 are what a larger one is.
constexpr int block_of(int q, int R) {
  if (R % 2) return q;
  int block = 0;
  for (int bit = 1; bit < R; bit *= 2, q /= 2) block = 2 * block + q % 2;
  return block;
}

// One pass over a block of `size` points; w: of each j < size / R the factors exp(-2 pi i j q / size), q = 1 .. R - 1.
// The last, of size R, has none.
template <int R, bool kInverse, bool kLast, class T>
LYRA_INLINE void one_pass(T* z, int64_t size, const T* w) {
  const int64_t step = size / R * kPoint<T>;
  for (int64_t j = 0; j < size / R; ++j, z += kPoint<T>, w += 2 * (R - 1)) {
    Point<T> p[R];
    if constexpr (!kInverse) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) p[r] = load_point(z + r * step);
      butterfly<R, false>(p);
#pragma GCC unroll 8
      for (int q = 0; q < R; ++q) {
        const Point<T> value = q == 0 || kLast ? p[q] : times(p[q], w + 2 * (q - 1));
        store_point(z + block_of(q, R) * step, value);
      }
    } else {
#pragma GCC unroll 8
      for (int q = 0; q < R; ++q) {
        const Point<T> value = load_point(z + block_of(q, R) * step);
        p[q] = q == 0 || kLast ? value : times<true>(value, w + 2 * (q - 1));
      }
      butterfly<R, true>(p);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) store_point(z + r * step, p[r]);
    }
  }
}

// Which frequencies are each other's negative, as they lie after a forward transform of R M points, M = 2^m >= 2. Bits
// reversed, -k keeps the leading one of k and changes all bits behind it, so that octaves are mirrored in themselves;
// what does not divide by R is mirrored from block to block.
struct Mirror {
  int64_t points, radix;

  int64_t pairs() const { return points / 2 + 1; }
  // f(pair, position, position of the negative); 0 and points / 2 are their own.
  template <class F>
  LYRA_INLINE void for_pairs(F&& f) const {
    const int64_t block = points / radix;
    int64_t pair = 0;
    f(pair++, int64_t{0}, int64_t{0});
    f(pair++, int64_t{1}, int64_t{1});
    for (int64_t octave = 2; octave < block; octave *= 2)
      for (int64_t i = 0; i < octave / 2; ++i) f(pair++, octave + i, 2 * octave - 1 - i);
    for (int64_t q = 1; 2 * q < radix; ++q)
      for (int64_t i = 0; i < block; ++i) f(pair++, q * block + i, (radix - q + 1) * block - 1 - i);
  }
};

// Transforms of so many points, and their factors, rounded from double.
template <class T>
class Fourier {
 public:
  // The smallest length of at least so many points.
  static int64_t good(int64_t least) {
    int64_t best = 4;
    while (best < least) best *= 2;
    for (const int64_t radix : {3, 5})
      for (int64_t n = 4 * radix; n < best; n *= 2)
        if (n >= least) best = n;
    return best;
  }

  explicit Fourier(int64_t points) : points_(points), roots_(2 * points) {
    make_roots();
    int64_t power = points;
    while (power % 2 == 0) power /= 2;
    radix_ = power;
    int64_t size = points / radix_, room = radix_ > 1 ? 2 * (radix_ - 1) * size : 0;
    // Passes of radix 8 where registers hold one; what is left is a 4 or a 2, and no 8 where two 4s serve.
    int64_t bits = 0;
    while ((int64_t{1} << bits) < size) ++bits;
    const int64_t largest = kRegisters >= 32 ? 3 : 2;
    for (; bits > 0; ++levels_) {
      const int64_t some = bits == 4 || bits <= largest ? std::min<int64_t>(bits, bits == 4 ? 2 : bits) : largest;
      radices_[levels_] = static_cast<int>(int64_t{1} << some);
      offsets_[levels_] = room;
      room += 2 * (radices_[levels_] - 1) * (size / radices_[levels_]);
      size /= radices_[levels_];
      bits -= some;
    }
    factors_.reset(new Buffer<T>(room));
    if (radix_ > 1) fill(static_cast<int>(radix_), points, *factors_);
    size = points / radix_;
    for (int level = 0; level < levels_; size /= radices_[level++])
      fill(radices_[level], size, *factors_ + offsets_[level]);
  }

  int64_t points() const { return points_; }
  Mirror mirror() const { return {points_, radix_}; }
  // exp(-2 pi i k / points) of the frequency that lies at a position.
  const T* root_at(int64_t position) const {
    const int64_t block = points_ / radix_;
    int64_t low = position % block, k = 0;
    for (int64_t bit = 1; bit < block; bit *= 2, low /= 2) k = 2 * k + low % 2;
    return roots_ + 2 * (radix_ * k + position / block);
  }

  void forward(T* z) const {
    first_pass<false>(z);
    for (int64_t q = 0; q < radix_; ++q) descend(0, 1, points_ / radix_, z + q * (points_ / radix_) * kPoint<T>);
  }
  void inverse(T* z) const {
    for (int64_t q = 0; q < radix_; ++q) ascend(0, 1, points_ / radix_, z + q * (points_ / radix_) * kPoint<T>);
    first_pass<true>(z);
  }

 private:
#if defined(__AVX512F__) || defined(__aarch64__)
  static constexpr int kRegisters = 32;
#else
  static constexpr int kRegisters = 16;
#endif
  static constexpr int kMostLevels = 40;

  // exp(-2 pi i k / points) = coarse root times fine root, in double.
  void make_roots() {
    int64_t fine = 1;
    while (fine * fine < points_) fine *= 2;
    Buffer<double> first(2 * fine);
    const auto root = [&](int64_t k, double* to) {
      const double angle = -6.283185307179586476925 * static_cast<double>(k) / static_cast<double>(points_);
      to[0] = std::cos(angle);
      to[1] = std::sin(angle);
    };
    for (int64_t i = 0; i < fine; ++i) root(i, first + 2 * i);
    for (int64_t begin = 0; begin < points_; begin += fine) {
      double c[2];
      root(begin, c);
      for (int64_t i = 0; i < fine && begin + i < points_; ++i) {
        const double re = first[2 * i], im = first[2 * i + 1];
        roots_[2 * (begin + i)] = static_cast<T>(c[0] * re - c[1] * im);
        roots_[2 * (begin + i) + 1] = static_cast<T>(c[0] * im + c[1] * re);
      }
    }
  }
  void fill(int radix, int64_t size, T* to) const {
    const int64_t step = points_ / size;
    for (int64_t j = 0; j < size / radix; ++j)
      for (int64_t q = 1; q < radix; ++q, to += 2) {
        to[0] = roots_[2 * j * q * step];
        to[1] = roots_[2 * j * q * step + 1];
      }
  }

  template <bool kInverse>
  void first_pass(T* z) const {
    const T* w = *factors_;
    if (radix_ == 3) one_pass<3, kInverse, false>(z, points_, w);
    if (radix_ == 5) one_pass<5, kInverse, false>(z, points_, w);
  }
  // A level's pass over neighbouring blocks.
  template <int R, bool kInverse>
  void pass(int64_t count, int64_t size, const T* w, T* z) const {
    for (int64_t i = 0; i < count; ++i, z += size * kPoint<T>) {
      if (size == R)
        one_pass<R, kInverse, true>(z, size, w);
      else
        one_pass<R, kInverse, false>(z, size, w);
    }
  }
  template <bool kInverse>
  void pass(int level, int64_t count, int64_t size, T* z) const {
    const T* w = *factors_ + offsets_[level];
    switch (radices_[level]) {
      case 8: return pass<8, kInverse>(count, size, w, z);
      case 4: return pass<4, kInverse>(count, size, w, z);
      default: return pass<2, kInverse>(count, size, w, z);
    }
  }
  // The passes from a level on over neighbouring blocks: one block after the other, but for the last level.
  void descend(int level, int64_t count, int64_t size, T* z) const {
    if (level + 1 >= levels_) return pass<false>(level, count, size, z);
    for (int64_t i = 0; i < count; ++i, z += size * kPoint<T>) {
      pass<false>(level, 1, size, z);
      descend(level + 1, radices_[level], size / radices_[level], z);
    }
  }
  void ascend(int level, int64_t count, int64_t size, T* z) const {
    if (level + 1 >= levels_) return pass<true>(level, count, size, z);
    for (int64_t i = 0; i < count; ++i, z += size * kPoint<T>) {
      ascend(level + 1, radices_[level], size / radices_[level], z);
      pass<true>(level, 1, size, z);
    }
  }

  int64_t points_, radix_;
  Buffer<T> roots_;
  std::unique_ptr<Buffer<T>> factors_;
  int levels_ = 0, radices_[kMostLevels];
  int64_t offsets_[kMostLevels];
};

}  // namespace lyra::cpu::LYRA_ISA
