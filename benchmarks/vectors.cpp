// The same two inner loops on three vector abstractions, and what the core can do at all: see vectors.py.
//
//   product   12 (AVX2: 6) rows x 2 vectors of accumulators, as in csrc/cpu/gemm.cpp
//   modes     a complex state's encode and decode over 8 tokens, as in csrc/cpu/s4d_tile.h
//   peak      independent multiply-adds, nothing loaded
//
// Prints one line a measurement: abstraction, loop, billions of operations a second (a multiply-add is two).
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#if defined(LYRA_WITH_ATEN)
#include <ATen/cpu/vec/vec.h>
#endif
#if __has_include(<experimental/simd>)
#include <experimental/simd>
#define LYRA_WITH_STD
#endif
#if __has_include(<hwy/highway.h>)
#include <hwy/highway.h>
#define LYRA_WITH_HIGHWAY
#endif

#include "../csrc/cpu/simd.h"

namespace {

constexpr int kLanes = lyra::cpu::LYRA_ISA::kLanes<float>;
constexpr int kRegisters = kLanes == 16 ? 32 : 16;  // as AVX-512 has, and AVX2
constexpr int kRows = kRegisters == 32 ? 12 : 6, kDepth = 64, kTokens = 8, kModes = 4;  // all of it in L1

struct Ours {
  using V = lyra::cpu::LYRA_ISA::Vec<float>;
  static V load(const float* p) { return lyra::cpu::LYRA_ISA::load(p); }
  static void store(float* p, V v) { lyra::cpu::LYRA_ISA::store(p, v); }
  static V splat(float x) { return lyra::cpu::LYRA_ISA::splat(x); }
  static V multiply_add(V a, V b, V c) { return a * b + c; }
};

#ifdef LYRA_WITH_STD
struct Std {
  using V = std::experimental::fixed_size_simd<float, kLanes>;
  static V load(const float* p) { return V(p, std::experimental::element_aligned); }
  static void store(float* p, V v) { v.copy_to(p, std::experimental::element_aligned); }
  static V splat(float x) { return V(x); }
  static V multiply_add(V a, V b, V c) { return a * b + c; }
};
struct StdNative {
  using V = std::experimental::native_simd<float>;
  static V load(const float* p) { return V(p, std::experimental::element_aligned); }
  static void store(float* p, V v) { v.copy_to(p, std::experimental::element_aligned); }
  static V splat(float x) { return V(x); }
  static V multiply_add(V a, V b, V c) { return a * b + c; }
};
#endif

#ifdef LYRA_WITH_ATEN
struct Aten {
  using V = at::vec::Vectorized<float>;
  static V load(const float* p) { return V::loadu(p); }
  static void store(float* p, V v) { v.store(p); }
  static V splat(float x) { return V(x); }
  static V multiply_add(V a, V b, V c) { return at::vec::fmadd(a, b, c); }
};
#endif

#ifdef LYRA_WITH_HIGHWAY
struct Highway {
  using D = hwy::HWY_NAMESPACE::ScalableTag<float>;
  using V = hwy::HWY_NAMESPACE::Vec<D>;
  static V load(const float* p) { return hwy::HWY_NAMESPACE::LoadU(D(), p); }
  static void store(float* p, V v) { hwy::HWY_NAMESPACE::StoreU(v, D(), p); }
  static V splat(float x) { return hwy::HWY_NAMESPACE::Set(D(), x); }
  static V multiply_add(V a, V b, V c) { return hwy::HWY_NAMESPACE::MulAdd(a, b, c); }
};
#endif

// c (rows, 2 vectors) = a (rows, 64) b (64, 2 vectors)
template <class X>
__attribute__((noinline)) void product(const float* a, const float* b, float* c) {
  using V = typename X::V;
  V acc[kRows][2];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) acc[i][0] = acc[i][1] = X::splat(0.0f);
  for (int p = 0; p < kDepth; ++p) {
    const V b0 = X::load(b + 2 * p * kLanes), b1 = X::load(b + (2 * p + 1) * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const V x = X::splat(a[i * kDepth + p]);
      acc[i][0] = X::multiply_add(x, b0, acc[i][0]);
      acc[i][1] = X::multiply_add(x, b1, acc[i][1]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    X::store(c + 2 * i * kLanes, acc[i][0]);
    X::store(c + (2 * i + 1) * kLanes, acc[i][1]);
  }
}

// y_k += Re(d_k s), then s <- s + sum_j p_j u_j, for every mode; tables (modes, 2 tokens, 2), states (modes, 2).
template <class X>
__attribute__((noinline)) void modes(const float* table, const float* u, float* state, float* y) {
  using V = typename X::V;
  V acc[kTokens];
#pragma GCC unroll 8
  for (int k = 0; k < kTokens; ++k) acc[k] = X::splat(0.0f);
  for (int n = 0; n < kModes; ++n, table += 4 * kTokens * kLanes, state += 2 * kLanes) {
    V re = X::load(state), im = X::load(state + kLanes);
#pragma GCC unroll 8
    for (int k = 0; k < kTokens; ++k) {
      acc[k] = X::multiply_add(X::load(table + 2 * k * kLanes), re, acc[k]);
      acc[k] = X::multiply_add(X::load(table + (2 * k + 1) * kLanes), im, acc[k]);
    }
#pragma GCC unroll 8
    for (int k = 0; k < kTokens; ++k) {
      const V x = X::load(u + k * kLanes);
      re = X::multiply_add(X::load(table + 2 * (kTokens + k) * kLanes), x, re);
      im = X::multiply_add(X::load(table + (2 * (kTokens + k) + 1) * kLanes), x, im);
    }
    X::store(state, re);
    X::store(state + kLanes, im);
  }
#pragma GCC unroll 8
  for (int k = 0; k < kTokens; ++k) X::store(y + k * kLanes, acc[k]);
}

constexpr int kChains = kRegisters - 8, kTurns = 1000;
template <class X>
__attribute__((noinline)) void peak(float* out) {
  using V = typename X::V;
  V acc[kChains], half = X::splat(0.5f), one = X::splat(1.0f);
#pragma GCC unroll 24
  for (int i = 0; i < kChains; ++i) acc[i] = X::splat(static_cast<float>(i));
  for (int turn = 0; turn < kTurns; ++turn) {
    asm volatile("" : "+m"(*out));
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) acc[i] = X::multiply_add(acc[i], half, one);
  }
  V sum = X::splat(0.0f);
#pragma GCC unroll 24
  for (int i = 0; i < kChains; ++i) sum = X::multiply_add(acc[i], one, sum);
  X::store(out, sum);
}

// The best of many repetitions: the least disturbed one.
template <class F>
double seconds(F&& f) {
  using Clock = std::chrono::steady_clock;
  constexpr int kRepeats = 200;
  double best = 1e9;
  for (int round = 0; round < 100; ++round) {
    const auto start = Clock::now();
    for (int i = 0; i < kRepeats; ++i) f();
    const double spent = std::chrono::duration<double>(Clock::now() - start).count() / kRepeats;
    if (spent < best) best = spent;
  }
  return best;
}

template <class X>
void measure(const char* name) {
  std::vector<float> a(kRows * kDepth, 0.5f), b(2 * kDepth * kLanes, 0.25f), c(2 * kRows * kLanes);
  std::vector<float> table(kModes * 4 * kTokens * kLanes, 1e-3f), u(kTokens * kLanes, 0.5f);
  std::vector<float> state(kModes * 2 * kLanes, 0.0f), y(kTokens * kLanes), out(kLanes);
  const double per_product = 2.0 * kRows * 2 * kLanes * kDepth, per_modes = 2.0 * kModes * 4 * kTokens * kLanes;
  std::printf("%s product %.1f\n", name, per_product / seconds([&] { product<X>(a.data(), b.data(), c.data()); }) / 1e9);
  std::printf("%s modes %.1f\n", name,
              per_modes / seconds([&] { modes<X>(table.data(), u.data(), state.data(), y.data()); }) / 1e9);
  std::printf("%s peak %.1f\n", name, 2.0 * kChains * kTurns * kLanes / seconds([&] { peak<X>(out.data()); }) / 1e9);
}

}  // namespace

int main() {
  measure<Ours>("ours");
#ifdef LYRA_WITH_STD
  measure<StdNative>("std::experimental::native_simd");
  measure<Std>("std::experimental::fixed_size_simd");
#endif
#ifdef LYRA_WITH_ATEN
  measure<Aten>("at::vec::Vectorized");
#endif
#ifdef LYRA_WITH_HIGHWAY
  if (hwy::HWY_NAMESPACE::Lanes(Highway::D()) == kLanes) measure<Highway>("Highway");
#endif
}
