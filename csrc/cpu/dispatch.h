// What every CPU kernel shares: the description of a batch, threads, and the choice of instruction set.
// Plain C++17, no torch headers: this is also the API for programs that link the kernels without Python.
#pragma once

#include <cstdint>

#include "../batch.h"

namespace lyra::cpu {

using lyra::DType;
using lyra::Layout;
using lyra::Order;

// A thread pool to borrow: calls body(begin, end, context) on ranges that cover [0, n). The default runs serially.
struct Threads {
  using Body = void (*)(int64_t begin, int64_t end, void* context);
  void (*run)(int64_t n, Body body, void* context) = [](int64_t n, Body body, void* context) { body(0, n, context); };
  int count = 1;
};

// ---- instruction sets ----------------------------------------------------------------------------------------
// The last two take the kernels of avx512, and products of bfloat16 operands by instructions of their own (bf16/).
enum class Isa { baseline, avx2, avx512, avx512_bf16, amx };

// The set that a kernel takes that this thread calls now, all its threads: what the function of choose_isa_by() says,
// else set_isa() or LYRA_CPU_ISA, else the best that was built and that this CPU has; avx512_bf16 only on AMD's.
Isa active_isa();
const char* isa_name(Isa isa);
bool isa_available(Isa isa);
// Returns false, and changes nothing, when that set was not built or this CPU lacks it.
bool set_isa(Isa isa);
// From now on every call of a kernel asks `choice`, on the thread of the call, before anything else: it returns true and
// a set, or false to choose none. A set that is not available is not taken.
void choose_isa_by(bool (*choice)(Isa*));

}  // namespace lyra::cpu

// Declares kernel `void name(const Args&, const Threads&)` in the namespace of each built instruction set, and the
// function lyra::cpu::name that calls the one in use.
#if defined(LYRA_BUILT_AVX2)
#define LYRA_IF_AVX2(x) x
#else
#define LYRA_IF_AVX2(x)
#endif
#if defined(LYRA_BUILT_AVX512)
#define LYRA_IF_AVX512(x) x
#else
#define LYRA_IF_AVX512(x)
#endif
#define LYRA_DECLARE_KERNEL(name, Args)                                                   \
  namespace lyra::cpu::baseline { void name(const Args&, const Threads&); }               \
  LYRA_IF_AVX2(namespace lyra::cpu::avx2 { void name(const Args&, const Threads&); })     \
  LYRA_IF_AVX512(namespace lyra::cpu::avx512 { void name(const Args&, const Threads&); }) \
  namespace lyra::cpu {                                                                   \
  inline void name(const Args& args, const Threads& threads) {                            \
    switch (active_isa()) {                                                               \
      LYRA_IF_AVX512(case Isa::amx : case Isa::avx512_bf16 : case Isa::avx512             \
                     : return avx512::name(args, threads);)                               \
      LYRA_IF_AVX2(case Isa::avx2 : return avx2::name(args, threads);)                    \
      default: return baseline::name(args, threads);                                      \
    }                                                                                     \
  }                                                                                       \
  }
