// Activations whose storage type is looked up where they are read or written, and not compiled in: the scan's
// recurrence is the same for all, and by far the longest part to compile.
#pragma once

#include "types.cuh"

namespace lyra::cuda {

struct Activations {
  const void* data;
  DType dtype;
  bool wide;  // whether 16-byte accesses are aligned
};

// f(null pointer to the storage type), for a kernel that computes in R.
template <class R, class F>
__device__ inline void with_storage(DType dtype, F&& f) {
  if constexpr (sizeof(R) == 8)
    f(static_cast<double*>(nullptr));
  else if (dtype == DType::f32)
    f(static_cast<float*>(nullptr));
  else if (dtype == DType::f16)
    f(static_cast<__half*>(nullptr));
  else
    f(static_cast<__nv_bfloat16*>(nullptr));
}

// f(null pointer to the storage type, elements of one access as a constant)
template <class R, class F>
__device__ inline void with_access(const Activations& x, F&& f) {
  with_storage<R>(x.dtype, [&](auto* p) {
    if (x.wide)
      f(p, std::integral_constant<int, kVector<Pointee<decltype(p)>>>());
    else
      f(p, std::integral_constant<int, 1>());
  });
}

}  // namespace lyra::cuda
