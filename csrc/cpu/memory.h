// Memory for the CPU kernels.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>

#include "simd.h"

namespace lyra::cpu::LYRA_ISA {

// Uninitialised (or filled) memory, aligned to a cache line. Not std::vector: its members compiled here, with this
// instruction set, could be the ones that the linker keeps for everybody.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t size) : data_(static_cast<T*>(::operator new(bytes(size), std::align_val_t{64}))) {}
  Buffer(int64_t size, T value) : Buffer(size) {
    for (int64_t i = 0; i < size; ++i) data_[i] = value;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { ::operator delete(data_, std::align_val_t{64}); }
  operator T*() { return data_; }
  operator const T*() const { return data_; }

 private:
  static std::size_t bytes(int64_t size) { return static_cast<std::size_t>(std::max<int64_t>(size, 1)) * sizeof(T); }
  T* data_;
};

template <class T>
LYRA_INLINE void copy(const T* from, int64_t count, T* to) {
  if (count > 0) std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(T));
}

template <class T>
LYRA_INLINE void zero(T* p, int64_t count) {
  if (count > 0) std::memset(p, 0, static_cast<std::size_t>(count) * sizeof(T));
}

}  // namespace lyra::cpu::LYRA_ISA
