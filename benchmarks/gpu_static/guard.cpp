// A device guard for CUDA that does nothing: PyTorch asks for one whenever a (fake) tensor on that device is indexed or
// needs a gradient. guard.py compiles and loads it where PyTorch was built without CUDA.
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {
C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>)
}
