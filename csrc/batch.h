// How activations lie in memory, for the CPU kernels and the CUDA kernels alike: what stores an element, and where the
// sequences of a batch are. Plain C++17.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#ifdef __CUDACC__
#define LYRA_HOST_DEVICE __host__ __device__
#else
#define LYRA_HOST_DEVICE
#endif

namespace lyra {

// Of activations. Parameters, states and sums have the compute dtype: f64 where that is f64, else f32.
enum class DType { f32, f64, f16, bf16 };

LYRA_HOST_DEVICE constexpr size_t storage_bytes(DType dtype) {
  return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2;
}
LYRA_HOST_DEVICE constexpr size_t compute_bytes(DType dtype) { return dtype == DType::f64 ? 8 : 4; }

// How activations (batch, length, channels) lie in memory: the channels of a token together, or (batch, channels, length),
// the tokens of a channel together.
enum class Order { channels_last, channels_first };

// Calls f with a null pointer to the type that stores an element: `[&](auto* p) { using S = Pointee<decltype(p)>; }`.
// F16 and BF16 are what the caller has for 16 bits.
template <class F16, class BF16, class F>
void with_storage_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32: return f(static_cast<float*>(nullptr));
    case DType::f64: return f(static_cast<double*>(nullptr));
    case DType::f16: return f(static_cast<F16*>(nullptr));
    case DType::bf16: return f(static_cast<BF16*>(nullptr));
  }
}
// The same for the compute dtype; returns what f returns.
template <class F>
auto with_compute_type(DType dtype, F&& f) {
  return dtype == DType::f64 ? f(static_cast<double*>(nullptr)) : f(static_cast<float*>(nullptr));
}
template <class P>
using Pointee = std::remove_pointer_t<P>;

// Where the sequences of a batch lie in its (rows, channels) activations.
//   dense:  sequences x max_length rows
//   padded: the same, sequence s real in its first lengths[s] rows
//   packed: sequence s is rows cu_seqlens[s] .. cu_seqlens[s + 1]
// A CUDA kernel's lengths and cu_seqlens are in the device's memory: rows() and tiles() do without them, and
// cuda/layout.cuh has the rest.
struct Layout {
  int64_t sequences = 0;
  int64_t max_length = 0;               // rows per sequence (dense, padded); all rows (packed)
  const int64_t* lengths = nullptr;     // (sequences), or null
  const int64_t* cu_seqlens = nullptr;  // (sequences + 1), or null

  int64_t rows() const { return cu_seqlens ? max_length : sequences * max_length; }
  // Slots for tiles of `size` tokens: one for each started tile, and for a packed batch, whose lengths need not be
  // known, up to one more for each sequence.
  int64_t tiles(int64_t size) const {
    return cu_seqlens ? max_length / size + sequences : sequences * ((max_length + size - 1) / size);
  }
  int64_t begin(int64_t s) const { return cu_seqlens ? cu_seqlens[s] : s * max_length; }
  int64_t length(int64_t s) const {
    return cu_seqlens ? cu_seqlens[s + 1] - cu_seqlens[s] : lengths ? lengths[s] : max_length;
  }
  // Rows after the sequence that belong to nobody and are written as zeros.
  int64_t padding(int64_t s) const { return lengths ? max_length - lengths[s] : 0; }
  // The slot of the first tile of sequence s.
  int64_t first_tile(int64_t s, int64_t size) const {
    return cu_seqlens ? cu_seqlens[s] / size + s : s * ((max_length + size - 1) / size);
  }
};

}  // namespace lyra
