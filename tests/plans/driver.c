/* Stands in for the CUDA driver where there is none: what is launched is handed to a function of the test. */
#include <stdint.h>

typedef int (*launch_function)(uint64_t function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned shared,
                               void* stream, void** parameters);
static launch_function launch;
void stand_in_set(launch_function function) { launch = function; }

int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y,
                   unsigned threads_z, unsigned shared, void* stream, void** parameters, void** extra) {
  return launch ? launch((uint64_t)(uintptr_t)function, x, y, z, threads, shared, stream, parameters) : 700;
}
int cuCtxGetCurrent(void** context) { *context = (void*)8; return 0; }
int cuCtxSetCurrent(void* context) { return 0; }
int cuDeviceGet(int* handle, int number) { *handle = number; return 0; }
int cuDevicePrimaryCtxRetain(void** context, int device) { *context = (void*)8; return 0; }
int cuGetErrorString(int code, const char** text) { *text = "the stand-in's own"; return 0; }
