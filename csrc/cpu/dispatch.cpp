#include "dispatch.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace lyra::cpu {
namespace {

constexpr Isa kAll[] = {Isa::avx512, Isa::avx2, Isa::baseline};

bool cpu_has(Isa isa) {
#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
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
  return isa == Isa::baseline;
}

Isa initial() {
  if (const char* wanted = std::getenv("LYRA_CPU_ISA"))
    for (Isa isa : kAll)
      if (std::strcmp(wanted, isa_name(isa)) == 0 && isa_available(isa)) return isa;
  for (Isa isa : kAll)
    if (isa_available(isa)) return isa;
  return Isa::baseline;
}

std::atomic<Isa>& usual() {
  static std::atomic<Isa> isa{initial()};
  return isa;
}

std::atomic<bool (*)(Isa*)> choice_of_call{nullptr};

}  // namespace

const char* isa_name(Isa isa) {
  return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "baseline";
}
bool isa_available(Isa isa) { return built(isa) && cpu_has(isa); }
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
void choose_isa_by(bool (*choice)(Isa*)) { choice_of_call.store(choice, std::memory_order_release); }

}  // namespace lyra::cpu
