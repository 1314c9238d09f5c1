// Cuts the memory that a launcher's caller lends it into arrays.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lyra::cuda {

// Hands out pieces of a workspace, 16-byte aligned; with a null start it only adds up.
class Pieces {
 public:
  explicit Pieces(void* start) : start_(static_cast<char*>(start)) {}
  template <class X>
  X* take(int64_t n) {
    X* p = start_ ? reinterpret_cast<X*>(start_ + used_) : nullptr;
    used_ += (static_cast<size_t>(n) * sizeof(X) + 15) / 16 * 16;
    return p;
  }
  size_t used() const { return used_; }

 private:
  char* start_;
  size_t used_ = 0;
};

}  // namespace lyra::cuda
