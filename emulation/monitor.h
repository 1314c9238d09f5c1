// The monitor's side of the runtime; without EMU_MONITOR every call is empty.
#pragma once

#include <cstddef>

namespace emu {

struct SharedHit {
  size_t offset;      // from the start of the block's shared memory: decides the bank
  const char* name;   // null when the access leaves the array
};
// True when the address lies in the memory that holds the block's shared arrays.
bool find_shared(const void* address, size_t size, SharedHit* hit);
bool on_fiber_stack(const void* address);

namespace monitor {
#ifdef EMU_MONITOR
void start_launch(const char* kernel, size_t dynamic_bytes);
void start_block();
void end_block();
void sync_block();
void sync_warp(unsigned first_thread, unsigned mask);
#else
inline void start_launch(const char*, size_t) {}
inline void start_block() {}
inline void end_block() {}
inline void sync_block() {}
inline void sync_warp(unsigned, unsigned) {}
#endif
}  // namespace monitor

}  // namespace emu
