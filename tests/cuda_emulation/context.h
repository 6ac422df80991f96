// A stack of its own for each fiber, and the switch from one to another.
#pragma once

#include <algorithm>
#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace torchdet::emulation {

constexpr size_t kStackBytes = 256 * 1024;

#if defined(__x86_64__)
// A system call free switch: the registers that a call preserves go on the old stack.
extern "C" void torchdet_switch(void** save, void* resume);
asm(R"(
.text
.hidden torchdet_switch
.globl torchdet_switch
torchdet_switch:
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

class Context {
 public:
  void prepare(char* stack, void (*entry)()) {
    void** top = reinterpret_cast<void**>(stack + kStackBytes) - 2;
    *top = reinterpret_cast<void*>(entry);  // with it popped, the stack is aligned as after a call
    stack_ = top - 6;
    std::fill(static_cast<void**>(stack_), top, nullptr);
  }
  static void switch_to(Context& from, Context& to) { torchdet_switch(&from.stack_, to.stack_); }

 private:
  void* stack_ = nullptr;
};
#else
class Context {
 public:
  void prepare(char* stack, void (*entry)()) {
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack;
    context_.uc_stack.ss_size = kStackBytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
  }
  static void switch_to(Context& from, Context& to) { swapcontext(&from.context_, &to.context_); }

 private:
  ucontext_t context_;
};
#endif

}  // namespace torchdet::emulation
