// What runs a kernel of the emulation: one block at a time, its threads as fibers (default) or as std::threads.
//
// Build flavours, chosen by macros:
//   (none)        fibers. Fast; finds divergent barriers, wrong shuffle masks and writes past shared arrays.
//   EMU_MONITOR   fibers plus monitor.cpp; the kernels must be compiled with -fsanitize=thread, whose calls before
//                 each load and store the monitor answers: bounds, races and traffic counters.
//   EMU_THREADS   one std::thread per CUDA thread, for the real ThreadSanitizer and AddressSanitizer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define EMU_EXPORT __attribute__((visibility("default")))  // for Python's ctypes

namespace emu {

constexpr unsigned kWarp = 32;
constexpr unsigned kMaxThreads = 1024;               // CUDA's limit on the threads of a block
constexpr size_t kMaxSharedBytes = 99 * 1024;        // the smallest opt-in limit of the cards from sm_80 on

extern size_t shared_limit;  // of the device that is played; kMaxSharedBytes unless a test asks for an older card

struct Lane {
  dim3 index;        // threadIdx
  unsigned linear;   // its number in the block
};

struct Block {
  dim3 grid, size, index;
  unsigned threads() const { return size.x * size.y * size.z; }
  uint64_t linear() const { return (static_cast<uint64_t>(index.z) * grid.y + index.y) * grid.x + index.x; }
};

extern Block block;  // the one that is running
#ifdef EMU_THREADS
extern thread_local const Lane* lane;
#else
extern const Lane* lane;  // null outside kernels
#endif

// Where in the source a thread waits.
struct Site {
  const char* what;
  const char* file;
  int line;
};

// What a warp-wide operation returns to each participant.
enum class Exchange { sync, shuffle, ballot };

void sync_block(Site site);
// Sync: waits for the threads of `mask`. Shuffle: also returns the value that lane `source` brought.
// Ballot: returns a bit for each thread of the mask whose value is not 0.
uint64_t exchange(Exchange kind, unsigned mask, uint64_t value, unsigned source, Site site);

// Static shared memory: the array of this block that belongs to `key`; poisoned when the block starts.
void* shared_array(const void* key, size_t bytes, const char* name);
void* dynamic_shared();

// Runs body(context) once per thread of the grid. Throws std::runtime_error naming the kernel and where it went wrong.
using Body = void (*)(const void* context);
void run_grid(const char* kernel, dim3 grid, dim3 block, size_t dynamic_bytes, Body body, const void* context);

template <class F>
void launch(const char* kernel, dim3 grid, dim3 block, size_t dynamic_bytes, const F& f) {
  run_grid(kernel, grid, block, dynamic_bytes, [](const void* context) { (*static_cast<const F*>(context))(); }, &f);
}

// Reports an error of the running kernel, with its name, block and thread.
[[noreturn]] void fail(const std::string& what);

// Global memory: kernels may touch only what was registered since the last forget_memory().
void register_memory(const void* begin, size_t bytes, const char* name, bool writable);
void forget_memory();

// 0: threads and blocks run in order, 1: in reverse, above: in a random order seeded by the number.
void set_order(int order);

}  // namespace emu
