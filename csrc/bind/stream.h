// PyTorch's current CUDA stream, without linking against its CUDA library, which a PyTorch for CPUs does not have.
#pragma once

#include <dlfcn.h>

#include <cstdint>

namespace lyra::binding {

// Fills in the stream of a device; returns 0 if that worked.
using CurrentStream = int32_t (*)(int32_t device, void** stream);

// Null where PyTorch was built without CUDA. Python loads libtorch_cuda.so for PyTorch alone: its symbols are not among
// those that this library is linked with when it is loaded, so they are looked up in the loaded file by name.
inline CurrentStream find_current_stream() {
  void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return nullptr;
  return reinterpret_cast<CurrentStream>(dlsym(library, "aoti_torch_get_current_cuda_stream"));
}

}  // namespace lyra::binding
