// Kernels with one bug each, to test that the emulation finds it; `correct` runs the same lines without a bug.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cuda_emulation.h"

namespace {

constexpr int kThreads = 64;
constexpr int kElements = 128;  // of input and of output

__global__ void correct(const float* in, float* out) {
  SHARED_ARRAY(float, s, [kThreads]);
  s[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  float sum = s[kThreads - 1 - threadIdx.x];
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  __syncthreads();
  s[threadIdx.x] = sum;
  __syncwarp();
  out[blockIdx.x * kThreads + threadIdx.x] = s[threadIdx.x ^ 1];
}

__global__ void missing_barrier(const float* in, float* out) {
  SHARED_ARRAY(float, s, [kThreads]);
  s[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = s[kThreads - 1 - threadIdx.x];
}

__global__ void missing_warp_barrier(const float* in, float* out) {
  SHARED_ARRAY(float, s, [kThreads]);
  s[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = s[threadIdx.x ^ 1];
}

__global__ void missing_second_barrier(const float* in, float* out) {
  SHARED_ARRAY(float, s, [kThreads]);
  for (int turn = 0; turn < 2; ++turn) {
    s[threadIdx.x] = in[threadIdx.x + turn];
    __syncthreads();
    out[threadIdx.x] = s[kThreads - 1 - threadIdx.x];
  }
}

__global__ void race_on_shared(const float* in, float* out) {
  SHARED_ARRAY(float, s, [1]);
  s[0] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = s[0];
}

__global__ void race_between_blocks(const float* in, float* out) {
  if (threadIdx.x == 0) out[0] = in[blockIdx.x];
}

__global__ void shuffle_without_oneself(const float* in, float* out) {
  out[threadIdx.x] = __shfl_xor_sync(0x0000FFFFu, in[threadIdx.x], 1);
}

__global__ void shuffle_from_outside_the_mask(const float* in, float* out) {
  if (threadIdx.x % 32 < 16) out[threadIdx.x] = __shfl_down_sync(0x0000FFFFu, in[threadIdx.x], 8);
}

__global__ void shuffle_with_absent_lanes(const float* in, float* out) {
  if (threadIdx.x % 32 < 16) out[threadIdx.x] = __shfl_xor_sync(~0u, in[threadIdx.x], 1);
}

__global__ void shuffles_of_two_kinds(const float* in, float* out) {
  if (threadIdx.x % 2)
    out[threadIdx.x] = __shfl_xor_sync(~0u, in[threadIdx.x], 1);
  else
    out[threadIdx.x] = __ballot_sync(~0u, threadIdx.x > 3);
}

__global__ void divergent_barrier(const float* in, float* out) {
  out[threadIdx.x] = in[threadIdx.x];
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void barrier_after_exit(const float* in, float* out) {
  if (threadIdx.x == 5) return;
  __syncthreads();
  out[threadIdx.x] = in[threadIdx.x];
}

__global__ void shared_write_out_of_bounds(const float* in, float* out) {
  SHARED_ARRAY(float, s, [kThreads]);
  s[threadIdx.x + 1] = in[threadIdx.x];
  out[threadIdx.x] = 0;
}

__global__ void dynamic_write_out_of_bounds(const float* in, float* out) {
  DYNAMIC_SHARED(float, s);
  s[threadIdx.x + 1] = in[threadIdx.x];
  out[threadIdx.x] = 0;
}

__global__ void global_read_out_of_bounds(const float* in, float* out) { out[threadIdx.x] = in[threadIdx.x + 100]; }

__global__ void global_write_out_of_bounds(const float* in, float* out) { out[threadIdx.x * 2 + 2] = in[threadIdx.x]; }

__global__ void write_to_input(const float* in, float*) { const_cast<float*>(in)[threadIdx.x] = 1; }

__global__ void misaligned_access(const float* in, float* out) {
  *reinterpret_cast<uint4*>(out + 4 * threadIdx.x % 64) = *reinterpret_cast<const uint4*>(in + 1);
}

__global__ void too_many_threads(const float*, float*) {}

__global__ void too_much_shared_memory(const float*, float*) {}

// Not a bug that stops a kernel, but its result must be NaN.
__global__ void reads_uninitialised_shared(const float*, float* out) {
  SHARED_ARRAY(float, s, [kThreads]);
  out[threadIdx.x] = s[threadIdx.x];
}

// No bug either: accesses whose cost is known.
__global__ void counted(const float* in, float* out) {
  SHARED_ARRAY(float, s, [2 * kThreads]);
  SHARED_ARRAY(uint2, pairs, [kThreads]);
  s[2 * threadIdx.x] = in[threadIdx.x];                   // every second word: each bank twice
  pairs[threadIdx.x] = make_uint2(threadIdx.x, 0);
  __syncthreads();
  const float broadcast = s[threadIdx.x / 32 * 2] + in[0];  // one word for a warp
  out[2 * threadIdx.x] = broadcast + pairs[threadIdx.x].x;  // half of every sector; words 8 bytes apart
}

struct Planted {
  const char* name;
  void (*kernel)(const float*, float*);
  int blocks, threads;
  size_t dynamic_bytes;
};

#define PLANTED(name) {#name, name, 1, kThreads, kThreads * sizeof(float)}
const Planted kPlanted[] = {
    {"correct", correct, 2, kThreads, 0},
    PLANTED(missing_barrier),
    PLANTED(missing_warp_barrier),
    PLANTED(missing_second_barrier),
    PLANTED(race_on_shared),
    {"race_between_blocks", race_between_blocks, 2, kThreads, 0},
    PLANTED(shuffle_without_oneself),
    PLANTED(shuffle_from_outside_the_mask),
    PLANTED(shuffle_with_absent_lanes),
    PLANTED(shuffles_of_two_kinds),
    PLANTED(divergent_barrier),
    PLANTED(barrier_after_exit),
    PLANTED(shared_write_out_of_bounds),
    PLANTED(dynamic_write_out_of_bounds),
    PLANTED(global_read_out_of_bounds),
    PLANTED(global_write_out_of_bounds),
    PLANTED(write_to_input),
    PLANTED(misaligned_access),
    {"too_many_threads", too_many_threads, 1, 1025, 0},
    {"too_much_shared_memory", too_much_shared_memory, 1, kThreads, 100 * 1024},
    PLANTED(reads_uninitialised_shared),
    PLANTED(counted),
};

std::string message;

}  // namespace

// Runs a kernel on 128 inputs 0, 1, ... and 128 outputs; returns what the emulation said, empty if nothing.
extern "C" EMU_EXPORT const char* run_planted(const char* name, float* out) {
  constexpr size_t kBytes = kElements * sizeof(float);
  auto* in = static_cast<float*>(std::aligned_alloc(64, kBytes));
  auto* scratch = static_cast<float*>(std::aligned_alloc(64, kBytes));
  for (int i = 0; i < kElements; ++i) in[i] = i;
  emu::forget_memory();
  emu::register_memory(in, kBytes, "in", false);
  emu::register_memory(scratch, kBytes, "out", true);
  message = std::string("no kernel ") + name;
  for (const Planted& p : kPlanted) {
    if (std::string(p.name) != name) continue;
    try {
      emu::launch(p.name, dim3(p.blocks), dim3(p.threads), p.dynamic_bytes, [&] { p.kernel(in, scratch); });
      message.clear();
    } catch (const std::runtime_error& error) {
      message = error.what();
    }
  }
  std::memcpy(out, scratch, kBytes);
  std::free(in);
  std::free(scratch);
  return message.c_str();
}
