// A CUDA runtime without a device, for the launchers as nvcc compiled them: it writes down every launch and fails where
// a test tells it to. Also the calls of the launchers that the test makes.
#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <string>

#include "cuda/gated_conv.h"
#include "cuda/rms_norm.h"
#include "cuda/s4d_scan.h"

namespace {

std::map<const void*, std::string> kernel_names;
std::string log_text, message;
cudaError_t last_error = cudaSuccess;
int fail_at = -1, fail_with = 0, launches = 0, shared_optin = 99 * 1024, device = 0;
bool attribute_fails = false;

cudaError_t report(cudaError_t status) {
  if (status != cudaSuccess) last_error = status;
  return status;
}

struct Configuration {
  dim3 grid, block;
  size_t shared;
  void* stream;
} configuration;

}  // namespace

extern "C" {

void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, void*, void*, void*, void*, int*) {
  kernel_names[host] = name;
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st* stream) {
  configuration = {grid, block, shared, stream};
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  *grid = configuration.grid;
  *block = configuration.block;
  *shared = configuration.shared;
  *static_cast<void**>(stream) = configuration.stream;
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* entry) {
  *kernel = static_cast<cudaKernel_t>(const_cast<void*>(entry));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void**, size_t shared, cudaStream_t stream) {
  log_text += kernel_names[kernel] + " " + std::to_string(grid.x) + " " + std::to_string(block.x) + " " +
              std::to_string(shared) + " " + std::to_string(reinterpret_cast<uintptr_t>(stream)) + " " +
              std::to_string(device) + "\n";
  return report(launches++ == fail_at ? static_cast<cudaError_t>(fail_with) : cudaSuccess);
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) {
  return report(attribute_fails ? static_cast<cudaError_t>(fail_with) : cudaSuccess);
}
cudaError_t cudaGetLastError() {
  const cudaError_t status = last_error;
  last_error = cudaSuccess;
  return status;
}
const char* cudaGetErrorString(cudaError_t status) {
  return status == cudaErrorNoKernelImageForDevice ? "no kernel image is available for execution on the device"
                                                   : "some other error";
}
cudaError_t cudaGetDevice(int* found) {
  *found = device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int wanted) {
  if (wanted > 3) return report(cudaErrorInvalidDevice);
  device = wanted;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? 7 : attribute == cudaDevAttrComputeCapabilityMinor ? 5 : shared_optin;
  return cudaSuccess;
}

// ---- for the test ------------------------------------------------------------------------------------------------

// The launch number `at` fails with this error; below 0, none does. -2: asking for shared memory does.
void fake_set(int at, int error, int shared) {
  fail_at = at;
  attribute_fails = at == -2;
  fail_with = error;
  shared_optin = shared;
  launches = 0;
  log_text.clear();
}

const char* fake_log() { return log_text.c_str(); }

// What the launcher threw, empty if nothing.
const char* run(const char* name, int on_device, uintptr_t stream) {
  using namespace lyra::cuda;
  message.clear();
  alignas(16) static char memory[16];
  const std::string op = name;
  try {
    use_device(on_device);
    Stream on = reinterpret_cast<Stream>(stream);
    Layout layout;
    layout.sequences = 2;
    layout.max_length = 5000;
    RmsNormBackwardArgs norm{{{DType::f32, 64, 64, memory, memory, 1e-8, memory, on}, memory, memory, memory}, memory};
    GatedConvBackwardArgs gated{{{DType::bf16, layout, 64, 3, false, 1e-8, memory, memory, memory, memory, memory, on},
                                 memory, memory, memory, memory, memory}, memory};
    S4dScanBackwardArgs scan{{DType::bf16, layout, 64, 32, 2, memory, memory, memory, memory, memory, memory, nullptr,
                              memory, nullptr, memory, memory, on},
                             memory, nullptr, memory, memory, memory, memory, memory, memory, nullptr};
    if (op == "rms_norm") rms_norm(norm.forward);
    if (op == "rms_norm_backward") rms_norm_backward(norm);
    if (op == "gated_conv") gated_conv(gated.forward);
    if (op == "gated_conv_backward") gated_conv_backward(gated);
    if (op == "s4d_scan") s4d_scan(scan.forward);
    if (op == "s4d_scan_backward") s4d_scan_backward(scan);
  } catch (const Error& error) {
    message = error.what();
  }
  return message.c_str();
}

}  // extern "C"
