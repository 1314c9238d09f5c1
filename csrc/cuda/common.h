// What every CUDA launcher shares: plain C++17, no CUDA and no torch headers, so that any program can call them.
//
// All data pointers are device pointers (lengths and cu_seqlens too: nothing here waits for the device). Launchers
// only enqueue work on the stream. They throw Error, with the kernel's name, when a launch fails.
#pragma once

#include <stdexcept>

#include "../batch.h"

namespace lyra::cuda {

using lyra::DType;
using lyra::Layout;

using Stream = void*;  // a cudaStream_t

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Makes a device this thread's current one for the launchers. The CUDA runtime is linked into this library, and a device
// that a program has chosen through a runtime of its own need not be chosen here.
void use_device(int device);

}  // namespace lyra::cuda
