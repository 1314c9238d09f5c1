// Cooperative threads: a stack each, and a switch between them. x86-64 switches in a dozen instructions; other
// processors use ucontext.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emu {

constexpr size_t kStackBytes = 128 * 1024;

struct Fiber {
  std::unique_ptr<char[]> stack;
  bool running = false;
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
};

inline bool fiber_owns(const Fiber& f, const void* address) {
  const auto* p = static_cast<const char*>(address);
  return p >= f.stack.get() && p < f.stack.get() + kStackBytes;
}

#if defined(__x86_64__)
extern "C" void emu_switch_stack(void** save, void* load);
asm(R"(
.text
.weak emu_switch_stack
emu_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

inline void switch_fiber(Fiber& from, Fiber& to) {
  from.running = false;
  to.running = true;
  emu_switch_stack(&from.stack_pointer, to.stack_pointer);
}

// The fiber will call `entry` on its own stack when it is first switched to; `entry` must never return.
inline void start_fiber(Fiber& f, void (*entry)()) {
  if (!f.stack) f.stack.reset(new char[kStackBytes]);
  auto* top = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(f.stack.get() + kStackBytes) & ~uintptr_t{15});
  *--top = nullptr;                                // where a return address of entry would be: keeps alignment
  *--top = reinterpret_cast<void*>(entry);
  for (int registers = 0; registers < 6; ++registers) *--top = nullptr;
  f.stack_pointer = top;
  f.running = false;
}
#else
inline void switch_fiber(Fiber& from, Fiber& to) {
  from.running = false;
  to.running = true;
  swapcontext(&from.context, &to.context);
}

inline void start_fiber(Fiber& f, void (*entry)()) {
  if (!f.stack) f.stack.reset(new char[kStackBytes]);
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = f.stack.get();
  f.context.uc_stack.ss_size = kStackBytes;
  f.context.uc_link = nullptr;
  makecontext(&f.context, entry, 0);
  f.running = false;
}
#endif

}  // namespace emu
