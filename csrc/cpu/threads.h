// How the CPU kernels share their work among threads, and the floating-point mode that they work in.
#pragma once

#include <cstdint>
#include <type_traits>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include "dispatch.h"
#include "simd.h"

namespace lyra::cpu::LYRA_ISA {

// Flush-to-zero and denormals-are-zero for this thread while it lives; then the caller's mode is back.
class FlushDenormals {
 public:
#if defined(__SSE2__)
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040u); }
  ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  FlushDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(saved_ | (uint64_t{1} << 24)));
  }
  ~FlushDenormals() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  uint64_t saved_;
#else
  FlushDenormals() {}
#endif
 public:
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;
};

// A kernel that makes runs of denormals itself, where a state or a kernel's taps have decayed, counts them as zeros: what
// they are added to is far larger. All others work in the caller's mode: from normal numbers they make next to no
// denormals, and those of the input are values like any other, exact to the last place.
enum class Denormals { keep, flush };

// f(begin, end) on ranges that cover [0, n): a thread's scratch memory is allocated once for all items of its range.
// Results must not depend on how the items are cut into ranges.
template <Denormals mode = Denormals::keep, class F>
void for_ranges(const Threads& threads, int64_t n, F&& f) {
  if (n <= 0) return;
  auto body = [](int64_t begin, int64_t end, void* context) {
    if (begin >= end) return;
    auto& call = *static_cast<std::remove_reference_t<F>*>(context);
    if constexpr (mode == Denormals::flush) {
      FlushDenormals flush;
      call(begin, end);
    } else {
      call(begin, end);
    }
  };
  if (threads.count <= 1 || n == 1)
    body(0, n, &f);
  else
    threads.run(n, body, &f);
}

}  // namespace lyra::cpu::LYRA_ISA
