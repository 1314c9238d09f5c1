#include "shared_memory.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "monitor.h"
#include "runtime.h"

namespace emu {

size_t shared_limit = kMaxSharedBytes;

namespace {

constexpr unsigned char kPoison = 0xFF;   // as floating point of any width: NaN
constexpr unsigned char kCanary = 0xA5;   // between shared arrays
constexpr size_t kGap = 128;

struct SharedArray {
  const void* key;
  size_t offset, bytes;
  const char* name;
};
std::vector<SharedArray> shared_arrays;
alignas(128) unsigned char arena[4 * kMaxSharedBytes];
size_t arena_used = 0, dynamic_offset = 0;
std::mutex shared_mutex;

size_t place_shared(const void* key, size_t bytes, const char* name) {
  const size_t offset = arena_used;
  arena_used = (offset + bytes + kGap + 127) / 128 * 128;
  size_t total = 0;
  for (const SharedArray& a : shared_arrays) total += a.bytes;
  if (total + bytes > shared_limit || arena_used > sizeof arena)
    fail("needs more than " + std::to_string(shared_limit) + " bytes of shared memory");
  std::memset(arena + offset, kPoison, bytes);
  std::memset(arena + offset + bytes, kCanary, arena_used - offset - bytes);
  shared_arrays.push_back({key, offset, bytes, name});
  return offset;
}

}  // namespace

void start_block_memory(size_t dynamic_bytes) {
  shared_arrays.clear();
  arena_used = 0;
  std::fill(arena, arena + kGap, kCanary);
  dynamic_offset = place_shared(nullptr, dynamic_bytes, "dynamic shared memory");
}

void check_canaries() {
  for (size_t i = 0; i < shared_arrays.size(); ++i) {
    const SharedArray& a = shared_arrays[i];
    const size_t end = i + 1 < shared_arrays.size() ? shared_arrays[i + 1].offset : arena_used;
    for (size_t b = a.offset + a.bytes; b < end; ++b)
      if (arena[b] != kCanary)
        fail("a thread of this block wrote " + std::to_string(b - a.offset - a.bytes) +
             " bytes past the end of shared array '" + a.name + "' (" + std::to_string(a.bytes) + " bytes)");
  }
}

void* shared_array(const void* key, size_t bytes, const char* name) {
  std::lock_guard<std::mutex> guard(shared_mutex);
  for (const SharedArray& a : shared_arrays)
    if (a.key == key) return arena + a.offset;
  return arena + place_shared(key, bytes, name);
}

void* dynamic_shared() { return arena + dynamic_offset; }

bool find_shared(const void* address, size_t size, SharedHit* hit) {
  const auto* p = static_cast<const unsigned char*>(address);
  if (p < arena || p >= arena + sizeof arena) return false;
  hit->offset = p - arena;
  hit->name = nullptr;
  for (const SharedArray& a : shared_arrays)
    if (hit->offset >= a.offset && hit->offset + size <= a.offset + a.bytes) hit->name = a.name;
  return true;
}

}  // namespace emu

extern "C" EMU_EXPORT void emu_set_shared_limit(unsigned bytes) {
  emu::shared_limit = bytes < emu::kMaxSharedBytes ? bytes : emu::kMaxSharedBytes;
}
