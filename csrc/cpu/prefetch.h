// Cache lines that a kernel will touch soon, asked for a few at a time between its computations.
//
// Where tokens of a channel lie together, a tile is on as many pages as it has channels, and the hardware, which follows
// a few pages at a time, does not see which lines are next. Asked for all at once they hold up the core, which has some
// sixteen requests under way at most and waits for one to end before it makes another: a forward pass of (B, H, L)
// memory took 13 to 21 % longer than one of (B, L, H) at 1,000 to 8,192 tokens, and takes 1 to 6 % longer now.
#pragma once

#include <cstdint>

#include "simd.h"

namespace lyra::cpu::LYRA_ISA {

class LinesAhead {
 public:
  LinesAhead() = default;  // none
  // `runs` runs of so many bytes, the first at p and each a step (in bytes) after the one before, in so many calls of
  // ask().
  LinesAhead(const void* p, int64_t step, int64_t bytes, int64_t runs, int64_t calls)
      : run_(reinterpret_cast<uintptr_t>(p)), line_(first_line(run_)), step_(static_cast<uintptr_t>(step)),
        bytes_(static_cast<uintptr_t>(bytes)), runs_(bytes > 0 ? runs : 0) {
    const int64_t lines = runs * ((bytes + kLine - 1) / kLine + 1);  // at most: runs may begin anywhere in a line
    share_ = (lines + calls - 1) / calls;
  }

  LYRA_INLINE void ask() {
    uintptr_t run = run_, line = line_;
    int64_t runs = runs_;
    for (int64_t i = share_; i > 0 && runs > 0; --i) {
      __builtin_prefetch(reinterpret_cast<const void*>(line), 0, 2);
      line += kLine;
      if (line < run + bytes_) continue;
      --runs;
      run += step_;
      line = first_line(run);
    }
    run_ = run, line_ = line, runs_ = runs;
  }

 private:
  static constexpr int64_t kLine = 64;
  static uintptr_t first_line(uintptr_t p) { return p & ~static_cast<uintptr_t>(kLine - 1); }

  uintptr_t run_ = 0, line_ = 0, step_ = 0, bytes_ = 0;
  int64_t runs_ = 0, share_ = 0;
};

}  // namespace lyra::cpu::LYRA_ISA
