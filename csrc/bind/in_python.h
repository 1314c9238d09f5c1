// Whether Python is in this process, and with it the schemas and kernels that are written in it.
#pragma once

#include <dlfcn.h>

namespace lyra::binding {

inline bool in_python() {
  using IsInitialized = int (*)();
  const auto initialized = reinterpret_cast<IsInitialized>(dlsym(RTLD_DEFAULT, "Py_IsInitialized"));
  return initialized && initialized();
}

}  // namespace lyra::binding
