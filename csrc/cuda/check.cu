#include "platform.cuh"

namespace lyra::cuda {

size_t shared_limit() {
#ifdef __CUDACC__
  int device = 0, bytes = 0;
  check_launch(cudaGetDevice(&device), "(none yet; asking for the device)");
  check_launch(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
               "(none yet; asking for the device's shared memory)");
  const size_t found = static_cast<size_t>(bytes);
#else
  const size_t found = emu::shared_limit;
#endif
  return found < kSharedOptIn ? found : kSharedOptIn;
}

}  // namespace lyra::cuda

#ifdef __CUDACC__
#ifndef LYRA_CUDA_ARCHITECTURES
#define LYRA_CUDA_ARCHITECTURES "unknown"
#endif

namespace lyra::cuda {

void check_launch(cudaError_t status, const char* kernel) {
  if (status == cudaSuccess) return;
  std::string message = std::string("CUDA kernel ") + kernel + ": " + cudaGetErrorString(status);
  if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorUnsupportedPtxVersion ||
      status == cudaErrorInvalidDeviceFunction) {
    message += ". This build has code for " LYRA_CUDA_ARCHITECTURES;
    int device = 0, major = 0, minor = 0;
    if (cudaGetDevice(&device) == cudaSuccess &&
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess)
      message += ", and this card is " + std::to_string(major) + "." + std::to_string(minor);
    message += "; rebuild with TORCH_CUDA_ARCH_LIST naming it, or use another backend.";
  }
  throw Error(message);
}

}  // namespace lyra::cuda
#endif
