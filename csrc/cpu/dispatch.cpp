#include "dispatch.h"

#include "bf16/products.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
#define LYRA_X86
#include <cpuid.h>
#endif
#if defined(LYRA_X86) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace lyra::cpu {
namespace {

constexpr Isa kAll[] = {Isa::amx, Isa::avx512_bf16, Isa::avx512, Isa::avx2, Isa::baseline};

#if defined(LYRA_X86)
// A bit of a leaf of CPUID, of the registers eax to edx.
bool cpuid_bit(unsigned leaf, unsigned subleaf, int which, int bit) {
  unsigned registers[4];
  if (!__get_cpuid_count(leaf, subleaf, registers, registers + 1, registers + 2, registers + 3)) return false;
  return registers[which] >> bit & 1u;
}

// Linux gives a process the registers of AMX when it asks, once; elsewhere nobody is known to give them.
bool tiles_granted() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

bool cpu_has(Isa isa) {
#if defined(LYRA_X86)
  if (isa == Isa::avx512_bf16) return cpu_has(Isa::avx512) && cpuid_bit(7, 1, 0, 5);
  if (isa == Isa::amx)  // AMX-TILE and AMX-BF16; the rows around them are rounded by AVX512-BF16
    return cpu_has(Isa::avx512_bf16) && cpuid_bit(7, 0, 3, 24) && cpuid_bit(7, 0, 3, 22) && tiles_granted();
  __builtin_cpu_init();
  if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == Isa::avx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#endif
  return isa == Isa::baseline;
}

bool built(Isa isa) {
#if defined(LYRA_BUILT_AVX2)
  if (isa == Isa::avx2) return true;
#endif
#if defined(LYRA_BUILT_AVX512)
  if (isa == Isa::avx512) return true;
#endif
#if defined(LYRA_BUILT_AVX512_BF16)
  if (isa == Isa::avx512_bf16) return true;
#endif
#if defined(LYRA_BUILT_AMX)
  if (isa == Isa::amx) return true;
#endif
  return isa == Isa::baseline;
}

// Whether a set is taken unasked. By AVX512-BF16 alone, Intel's cores do half the multiply-adds that they do in float32
// (measured: one such instruction in two cycles), and PGC in bfloat16 takes half as long again. AMD's are not measured.
bool worth_its_while(Isa isa) {
#if defined(LYRA_X86)
  __builtin_cpu_init();
  if (isa == Isa::avx512_bf16) return __builtin_cpu_is("amd");
#endif
  return true;
}

Isa initial() {
  if (const char* wanted = std::getenv("LYRA_CPU_ISA"))
    for (Isa isa : kAll)
      if (std::strcmp(wanted, isa_name(isa)) == 0 && isa_available(isa)) return isa;
  for (Isa isa : kAll)
    if (isa_available(isa) && worth_its_while(isa)) return isa;
  return Isa::baseline;
}

std::atomic<Isa>& usual() {
  static std::atomic<Isa> isa{initial()};
  return isa;
}

std::atomic<bool (*)(Isa*)> choice_of_call{nullptr};

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::amx: return "amx";
    case Isa::avx512_bf16: return "avx512_bf16";
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    default: return "baseline";
  }
}
bool isa_available(Isa isa) {
  // Asked once: calls that choose their set come here, and a virtual machine takes microseconds for each CPUID.
  static const unsigned available = [] {
    unsigned found = 0;
    for (Isa each : kAll) found |= static_cast<unsigned>(built(each) && cpu_has(each)) << static_cast<int>(each);
    return found;
  }();
  return available >> static_cast<int>(isa) & 1u;
}
Isa active_isa() {
  const auto choice = choice_of_call.load(std::memory_order_acquire);
  Isa isa;
  if (choice && choice(&isa) && isa_available(isa)) return isa;
  return usual().load(std::memory_order_relaxed);
}
bool set_isa(Isa isa) {
  if (!isa_available(isa)) return false;
  usual().store(isa, std::memory_order_relaxed);
  return true;
}
const bf16::Products* bf16::products() {
  switch (active_isa()) {
#if defined(LYRA_BUILT_AMX)
    case Isa::amx: return &kAmx;
#endif
#if defined(LYRA_BUILT_AVX512_BF16)
    case Isa::avx512_bf16: return &kAvx512Bf16;
#endif
    default: return nullptr;
  }
}
void choose_isa_by(bool (*choice)(Isa*)) { choice_of_call.store(choice, std::memory_order_release); }

}  // namespace lyra::cpu
