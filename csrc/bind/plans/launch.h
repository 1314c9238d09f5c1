// Launching a kernel that Triton has loaded, by the CUDA driver's own function, found at run time: a build without CUDA
// has it, too.
#pragma once

#include <torch/csrc/stable/library.h>

#include <dlfcn.h>

#include <cstdint>

namespace lyra::plans {

class Driver {
 public:
  // Throws where there is no driver.
  static const Driver& get() {
    static const Driver driver;
    return driver;
  }

  // A thread that has not used CUDA has no context, whatever device it is set to.
  void make_context(int device) const {
    void* context = nullptr;
    check(current_context_(&context), "no context");
    if (context != nullptr) return;
    int handle = 0;
    check(device_(&handle, device), "no device");
    check(retain_(&context, handle), "no primary context");
    check(set_current_(context), "no current context");
  }

  void launch(uint64_t function, const uint32_t* grid, uint32_t threads, uint32_t shared_memory, void* stream,
              void** parameters) const {
    check(launch_(reinterpret_cast<void*>(function), grid[0], grid[1], grid[2], threads, 1, 1, shared_memory, stream,
                  parameters, nullptr),
          "a kernel was not launched");
  }

 private:
  Driver() {
    void* library = dlopen("libcuda.so.1", RTLD_LAZY);
    STD_TORCH_CHECK(library != nullptr, "libcuda.so.1 does not load: ", dlerror());
    find(library, "cuLaunchKernel", launch_);
    find(library, "cuCtxGetCurrent", current_context_);
    find(library, "cuCtxSetCurrent", set_current_);
    find(library, "cuDeviceGet", device_);
    find(library, "cuDevicePrimaryCtxRetain", retain_);
    find(library, "cuGetErrorString", error_string_);
  }

  template <class Function>
  static void find(void* library, const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library, name));
    STD_TORCH_CHECK(function != nullptr, "libcuda.so.1 has no ", name);
  }

  void check(int code, const char* what) const {
    if (code == 0) return;
    const char* text = nullptr;
    error_string_(code, &text);
    STD_TORCH_CHECK(false, what, ": CUDA driver error ", code, ", ", text != nullptr ? text : "unknown");
  }

  int (*launch_)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
  int (*current_context_)(void**);
  int (*set_current_)(void*);
  int (*device_)(int*, int);
  int (*retain_)(void**, int);
  int (*error_string_)(int, const char**);
};

}  // namespace lyra::plans
