#include "platform.cuh"

#ifdef __CUDACC__
#ifndef LYRA_CUDA_ARCHITECTURES
#define LYRA_CUDA_ARCHITECTURES "unknown"
#endif
#endif

namespace lyra::cuda {

size_t shared_limit(const char* kernel) {
#ifdef __CUDACC__
  int device = 0, bytes = 0;
  check_launch(cudaGetDevice(&device), kernel);
  check_launch(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), kernel);
  const size_t found = static_cast<size_t>(bytes);
#else
  static_cast<void>(kernel);
  const size_t found = emu::shared_limit;
#endif
  return found < kSharedOptIn ? found : kSharedOptIn;
}

void use_device(int device) {
#ifdef __CUDACC__
  check_launch(cudaSetDevice(device), "(none yet: choosing the device)");
#else
  static_cast<void>(device);
#endif
}

#ifdef __CUDACC__
void check_launch(cudaError_t status, const char* kernel) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // or the next launch would report it once more
  std::string message = std::string("CUDA kernel ") + kernel + ": " + cudaGetErrorString(status);
  switch (status) {
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorJitCompilerNotFound:
    case cudaErrorInvalidDeviceFunction: {
      message += ". This build has code for " LYRA_CUDA_ARCHITECTURES;
      int device = 0, major = 0, minor = 0;
      if (cudaGetDevice(&device) == cudaSuccess &&
          cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
          cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess)
        message += ", and this card is sm_" + std::to_string(major) + std::to_string(minor);
      message += "; rebuild with TORCH_CUDA_ARCH_LIST naming it, or use another backend.";
      break;
    }
    case cudaErrorInsufficientDriver:
      message += ". This build needs a driver for CUDA " + std::to_string(CUDART_VERSION / 1000) + "." +
                 std::to_string(CUDART_VERSION % 1000 / 10) + " or newer.";
      break;
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
      message += ". It was found at this launch, but an earlier kernel, of any library, caused it: "
                 "CUDA_LAUNCH_BLOCKING=1 tells which.";
      break;
    default: break;
  }
  throw Error(message);
}
#endif

}  // namespace lyra::cuda
