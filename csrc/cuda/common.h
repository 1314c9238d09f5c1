// What every CUDA launcher shares: plain C++17, no CUDA and no torch headers, so that any program can call them.
//
// All data pointers are device pointers (lengths and cu_seqlens too: nothing here waits for the device). Launchers
// only enqueue work on the stream. They throw Error, with the kernel's name, when a launch fails.
#pragma once

#include <cstdint>
#include <stdexcept>

namespace lyra::cuda {

enum class DType { f32, f64, f16, bf16 };

using Stream = void*;  // a cudaStream_t

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Makes a device this thread's current one for the launchers. The CUDA runtime is linked into this library, and a device
// that a program has chosen through a runtime of its own need not be chosen here.
void use_device(int device);

// Where the sequences of a batch lie in its (rows, channels) activations.
//   dense:  sequences x max_length rows
//   padded: the same, sequence s real in its first lengths[s] rows
//   packed: sequence s is rows cu_seqlens[s] .. cu_seqlens[s + 1]
struct Layout {
  int64_t sequences = 0;
  int64_t max_length = 0;               // rows per sequence (dense, padded); all rows (packed)
  const int64_t* lengths = nullptr;     // (sequences), or null
  const int64_t* cu_seqlens = nullptr;  // (sequences + 1), or null

  int64_t rows() const { return cu_seqlens ? max_length : sequences * max_length; }
  // How many slots find_tile() numbers for tiles of `size` tokens: one for each started tile, and for a packed
  // batch, whose lengths only the device knows, up to one more for each sequence.
  int64_t tiles(int64_t size) const {
    return cu_seqlens ? max_length / size + sequences : sequences * ((max_length + size - 1) / size);
  }
};

}  // namespace lyra::cuda
