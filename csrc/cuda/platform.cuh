// CUDA itself, or its emulation on the CPU when another compiler than nvcc reads the kernels.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>

#include "common.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define SHARED_ARRAY(T, name, dims) __shared__ T name dims
#define DYNAMIC_SHARED(T, name)                                        \
  extern __shared__ __align__(16) unsigned char lyra_dynamic_shared[]; \
  T* name = reinterpret_cast<T*>(lyra_dynamic_shared)
#else
#include "cuda_emulation.h"
#endif

namespace lyra::cuda {

constexpr unsigned kFullMask = 0xFFFFFFFFu;
constexpr int kWarp = 32;
constexpr size_t kSharedBudget = 48 * 1024;  // what every card gives a block without asking
constexpr size_t kSharedLimit = 64 * 1024;   // what every card from sm_75 on can give
constexpr size_t kSharedOptIn = 99 * 1024;   // and from sm_80 on

// What a block of a kernel may ask for on the current device, up to what every card from sm_80 on gives.
size_t shared_limit(const char* kernel);

#ifdef __CUDACC__
// Throws an Error that names the kernel, and for a card without code in this build, the architectures it has.
void check_launch(cudaError_t status, const char* kernel);
#endif

// Enqueues kernel(args...) on the stream.
template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), int64_t blocks, int threads, size_t dynamic_bytes,
            Stream stream, Arguments... args) {
  if (blocks <= 0) return;
  if (blocks > 0x7FFFFFFF) throw Error(std::string(name) + ": the input needs more than 2^31 - 1 blocks");
#ifdef __CUDACC__
  if (dynamic_bytes > kSharedBudget)
    check_launch(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      static_cast<int>(dynamic_bytes)),
                 name);
  kernel<<<dim3(static_cast<unsigned>(blocks)), dim3(threads), dynamic_bytes, static_cast<cudaStream_t>(stream)>>>(
      args...);
  check_launch(cudaGetLastError(), name);
#else
  static_cast<void>(stream);
  emu::launch(name, dim3(static_cast<unsigned>(blocks)), dim3(threads), dynamic_bytes, [&] { kernel(args...); });
#endif
}

}  // namespace lyra::cuda
