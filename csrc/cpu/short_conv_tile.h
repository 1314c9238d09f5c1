// The arithmetic of a short convolution on a line: a run of tokens, of a vector's worth of channels where a vector is
// one token of these (Step: lanes), or of one channel where it is so many tokens of this (Step: 1). Either way the token
// after the one at x is at x + Step, and a tap is a vector.
#pragma once

#include "gelu_glu_math.h"
#include "memory.h"
#include "simd.h"

namespace lyra::cpu::LYRA_ISA {

// The taps of a line, in registers where their number is known; table: one vector each, and after them the bias.
template <class T, int Width>
class Taps {
 public:
  Taps(const T* table, int64_t) : bias_(load(table + Width * kLanes<T>)) {
    for (int j = 0; j < Width; ++j) taps_[j] = load(table + j * kLanes<T>);
  }
  LYRA_INLINE constexpr int64_t width() const { return Width; }
  LYRA_INLINE Vec<T> operator[](int64_t j) const { return taps_[j]; }
  LYRA_INLINE Vec<T> bias() const { return bias_; }

 private:
  Vec<T> taps_[Width], bias_;
};
template <class T>
class Taps<T, 0> {
 public:
  Taps(const T* table, int64_t width) : table_(table), width_(width) {}
  LYRA_INLINE int64_t width() const { return width_; }
  LYRA_INLINE Vec<T> operator[](int64_t j) const { return load(table_ + j * kLanes<T>); }
  LYRA_INLINE Vec<T> bias() const { return (*this)[width_]; }

 private:
  const T* table_;
  int64_t width_;
};

// f(taps) with the usual widths known.
template <class T, class F>
LYRA_INLINE void with_taps(const T* table, int64_t width, F&& f) {
  switch (width) {
    case 2: return f(Taps<T, 2>(table, width));
    case 3: return f(Taps<T, 3>(table, width));
    case 4: return f(Taps<T, 4>(table, width));
    default: return f(Taps<T, 0>(table, width));
  }
}

// sum_j weight_j x_{t-W+1+j} + bias of the tokens of one vector; x: W - 1 tokens before the first of them.
template <class T, int Step, class W>
LYRA_INLINE Vec<T> convolved(const W& taps, const T* x) {
  Vec<T> z = taps.bias();
  for (int64_t j = 0; j < taps.width(); ++j) z += taps[j] * load(x + j * Step);
  return z;
}

// `vectors` of y; x: from W - 1 tokens before the first on.
template <class T, int Step>
void convolve_line(const T* table, int64_t width, bool silu, const T* x, int64_t vectors, T* y) {
  constexpr int V = kLanes<T>;
  with_taps(table, width, [&](auto taps) {
    if (silu)
      for (int64_t i = 0; i < vectors; ++i) {
        const Vec<T> z = convolved<T, Step>(taps, x + i * V);
        store(y + i * V, z * sigmoid<T>(z));
      }
    else
      for (int64_t i = 0; i < vectors; ++i) store(y + i * V, convolved<T, Step>(taps, x + i * V));
  });
}

// The gradient of z = silu^-1(y) in place of that of y, `vectors` of them.
template <class T, int Step>
void silu_gradient(const T* table, int64_t width, const T* x, int64_t vectors, T* g) {
  constexpr int V = kLanes<T>;
  with_taps(table, width, [&](auto taps) {
    for (int64_t i = 0; i < vectors; ++i) {
      const Vec<T> z = convolved<T, Step>(taps, x + i * V), s = sigmoid<T>(z);
      store(g + i * V, load(g + i * V) * (s * (T(1) + z * (T(1) - s))));
    }
  });
}

// The gradient of the tokens: du_s = sum_j weight_j g_{s+W-1-j}, where g goes on W - 1 tokens after the last.
template <class T, int Step>
void transposed_line(const T* table, int64_t width, const T* g, int64_t vectors, T* du) {
  constexpr int V = kLanes<T>;
  with_taps(table, width, [&](auto taps) {
    for (int64_t i = 0; i < vectors; ++i) {
      Vec<T> sum{};
      for (int64_t j = 0; j < taps.width(); ++j) sum += taps[j] * load(g + i * V + (taps.width() - 1 - j) * Step);
      store(du + i * V, sum);
    }
  });
}

// sums[j] = sum_t g_t x_{t+j}, and of g_t itself in sums[W]: vectors, over whole vectors and `rest` lanes of one more.
template <class T, int Step>
void correlate_line(int64_t width, const T* x, const T* g, int64_t whole, int rest, T* sums) {
  constexpr int V = kLanes<T>, kAtOnce = 4;
  const Vec<T> last = load_first(g + whole * V, rest);
  Vec<T> total = last;
  for (int64_t i = 0; i < whole; ++i) total += load(g + i * V);
  store(sums + width * V, total);
  int64_t j = 0;
  for (; j + kAtOnce <= width; j += kAtOnce) {
    Vec<T> acc[kAtOnce];
    for (int k = 0; k < kAtOnce; ++k) acc[k] = rest ? last * load(x + whole * V + (j + k) * Step) : Vec<T>{};
    for (int64_t i = 0; i < whole; ++i) {
      const Vec<T> gradient = load(g + i * V);
      for (int k = 0; k < kAtOnce; ++k) acc[k] += gradient * load(x + i * V + (j + k) * Step);
    }
    for (int k = 0; k < kAtOnce; ++k) store(sums + (j + k) * V, acc[k]);
  }
  for (; j < width; ++j) {
    Vec<T> acc = rest ? last * load(x + whole * V + j * Step) : Vec<T>{};
    for (int64_t i = 0; i < whole; ++i) acc += load(g + i * V) * load(x + i * V + j * Step);
    store(sums + j * V, acc);
  }
}

}  // namespace lyra::cpu::LYRA_ISA
