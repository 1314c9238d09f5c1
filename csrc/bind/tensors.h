// From dispatcher tensors to the kernels' plain pointers, on LibTorch's stable ABI.
//
// The public Python functions have checked shapes, dtypes and values; what is checked here keeps a direct call of
// torch.ops.lyra.* from reading out of bounds.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <tuple>
#include <vector>

#include "cpu/dispatch.h"

namespace lyra::binding {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline cpu::DType dtype_of(const Tensor& t, const char* name) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return cpu::DType::f32;
    case ScalarType::Double: return cpu::DType::f64;
    case ScalarType::Half: return cpu::DType::f16;
    case ScalarType::BFloat16: return cpu::DType::bf16;
    default: STD_TORCH_CHECK(false, name, " must be float32, float64, float16 or bfloat16");
  }
  return cpu::DType::f32;
}

inline ScalarType compute_type(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check(const Tensor& t, const char* name, ScalarType dtype, std::initializer_list<int64_t> sizes) {
  STD_TORCH_CHECK(t.is_contiguous(), name, " must be contiguous");
  STD_TORCH_CHECK(t.scalar_type() == dtype, name, " has the wrong dtype");
  STD_TORCH_CHECK(t.dim() == static_cast<int64_t>(sizes.size()), name, " has ", t.dim(), " dimensions, not ",
                  sizes.size());
  int64_t i = 0;
  for (int64_t size : sizes) {
    STD_TORCH_CHECK(t.size(i) == size, name, " has size ", t.size(i), " in dimension ", i, ", not ", size);
    ++i;
  }
}

// The pointer of a checked tensor; null for an absent one.
inline const void* input(const Tensor& t, const char* name, ScalarType dtype, std::initializer_list<int64_t> sizes) {
  check(t, name, dtype, sizes);
  return t.const_data_ptr();
}
inline const void* input(const OptionalTensor& t, const char* name, ScalarType dtype,
                         std::initializer_list<int64_t> sizes) {
  return t ? input(*t, name, dtype, sizes) : nullptr;
}

// A fresh tensor. From 32 MB on, malloc gets every block new from the system, and touching its pages of 4 KB for the
// first time took a third of the scan's time at a million tokens: ask for pages of 2 MB (where the system grants them).
inline Tensor with_large_pages(Tensor t) {
#if defined(__linux__)
  constexpr uintptr_t kPage = 4096, kLargeBlock = uintptr_t{32} << 20;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(t.const_data_ptr());
  const uintptr_t bytes = static_cast<uintptr_t>(t.numel()) * static_cast<uintptr_t>(t.element_size());
  if (bytes >= kLargeBlock) {
    const uintptr_t first = (begin + kPage - 1) / kPage * kPage, last = (begin + bytes) / kPage * kPage;
    (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // a wish: failing does no harm
  }
#endif
  return t;
}
inline Tensor new_tensor(std::vector<int64_t> sizes, ScalarType dtype) {
  return with_large_pages(torch::stable::empty(sizes, dtype));
}
inline Tensor new_like(const Tensor& t) { return with_large_pages(torch::stable::empty_like(t)); }
// What stands for the gradient of an argument that was not given.
inline Tensor absent(ScalarType dtype) { return new_tensor({0}, dtype); }

// The layout of activations (B, L, C), padded or packed.
inline cpu::Layout layout_of(const Tensor& x, const OptionalTensor& lengths, const OptionalTensor& cu_seqlens) {
  STD_TORCH_CHECK(x.dim() == 3, "activations must be (batch, length, channels)");
  cpu::Layout layout;
  layout.sequences = x.size(0);
  layout.max_length = x.size(1);
  STD_TORCH_CHECK(!(lengths && cu_seqlens), "give lengths or cu_seqlens, not both");
  if (lengths) {
    layout.lengths = static_cast<const int64_t*>(input(*lengths, "lengths", ScalarType::Long, {x.size(0)}));
    for (int64_t s = 0; s < layout.sequences; ++s)
      STD_TORCH_CHECK(layout.lengths[s] >= 0 && layout.lengths[s] <= layout.max_length, "lengths[", s, "] is ",
                      layout.lengths[s], ", outside 0 .. ", layout.max_length);
  }
  if (cu_seqlens) {
    STD_TORCH_CHECK(x.size(0) == 1, "a packed batch must have batch size 1, not ", x.size(0));
    STD_TORCH_CHECK(cu_seqlens->dim() == 1 && cu_seqlens->size(0) >= 1, "cu_seqlens must be (sequences + 1)");
    layout.sequences = cu_seqlens->size(0) - 1;
    layout.cu_seqlens =
        static_cast<const int64_t*>(input(*cu_seqlens, "cu_seqlens", ScalarType::Long, {layout.sequences + 1}));
    const int64_t* cu = layout.cu_seqlens;
    STD_TORCH_CHECK(cu[0] == 0 && cu[layout.sequences] == x.size(1), "cu_seqlens must run from 0 to ", x.size(1));
    for (int64_t s = 0; s < layout.sequences; ++s)
      STD_TORCH_CHECK(cu[s] <= cu[s + 1], "cu_seqlens must ascend; entry ", s + 1, " is smaller than entry ", s);
  }
  return layout;
}

// torch's own pool: respects torch.set_num_threads, runs serially inside another parallel region.
inline cpu::Threads torch_threads() {
  cpu::Threads threads;
  threads.count = static_cast<int>(torch::stable::get_num_threads());
  threads.run = [](int64_t n, cpu::Threads::Body body, void* context) {
    torch::stable::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) { body(begin, end, context); });
  };
  return threads;
}

}  // namespace lyra::binding
