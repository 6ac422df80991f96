// Fibers and their scheduler; see emulation.h.
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "device.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace torchdet::emulation {
namespace {

constexpr size_t kStackBytes = 256 * 1024;

// ---- switching stacks ----

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

// ---- a block ----

const char* name_of(Collective collective) {
  switch (collective) {
    case Collective::kNone:
      return "nothing";
    case Collective::kSyncBlock:
      return "sync_block";
    case Collective::kSyncWarp:
      return "sync_warp";
    case Collective::kShuffle:
      return "shuffle";
    case Collective::kShuffleXor:
      return "shuffle_xor";
    case Collective::kMaximum:
      return "reduce_maximum_in_warp";
    default:
      return "any_in_warp";
  }
}

struct Thread {
  Context context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  void* sanitizer_stack = nullptr;
  bool finished = false;
  Collective waits_at = Collective::kNone;
  unsigned generation = 0;  // collectives passed; payloads alternate, so that a fast thread does
                            // not overwrite what a slow one has yet to read
  unsigned char payload[2][kLargestPayload];
};

struct Block {
  void (*body)(const Problem&) = nullptr;
  const Problem* problem = nullptr;
  int64_t index = 0, count = 0;
  int threads = 0, current = 0;
  void* shared = nullptr;
  Context scheduler;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;
};

thread_local Block block;
thread_local std::vector<Thread> pool;
thread_local std::string message;

// A switch, told to AddressSanitizer, which follows the stack.
void enter(Thread& thread) {
#if defined(__SANITIZE_ADDRESS__)
  void* own = nullptr;
  __sanitizer_start_switch_fiber(&own, thread.stack.get(), kStackBytes);
  Context::switch_to(block.scheduler, thread.context);
  __sanitizer_finish_switch_fiber(own, nullptr, nullptr);
#else
  Context::switch_to(block.scheduler, thread.context);
#endif
}
void leave(Thread& thread) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(thread.finished ? nullptr : &thread.sanitizer_stack,
                                 block.scheduler_stack, block.scheduler_stack_bytes);
  Context::switch_to(thread.context, block.scheduler);
  __sanitizer_finish_switch_fiber(thread.sanitizer_stack, &block.scheduler_stack,
                                  &block.scheduler_stack_bytes);
#else
  Context::switch_to(thread.context, block.scheduler);
#endif
}

void thread_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &block.scheduler_stack, &block.scheduler_stack_bytes);
#endif
  block.body(*block.problem);
  Thread& thread = pool[block.current];
  thread.finished = true;
  leave(thread);
  std::abort();  // a finished thread is never entered again
}

// Releases the threads of [begin, end) where all of them wait at the same collective.
bool release(int begin, int end, bool block_barrier) {
  const Collective collective = pool[begin].waits_at;
  if (collective == Collective::kNone || (collective == Collective::kSyncBlock) != block_barrier) {
    return false;
  }
  for (int t = begin; t < end; ++t) {
    if (pool[t].finished || pool[t].waits_at != collective) {
      return false;
    }
  }
  for (int t = begin; t < end; ++t) {
    pool[t].waits_at = Collective::kNone;
    ++pool[t].generation;
  }
  return true;
}

void describe_deadlock() {
  message = "emulated kernel: block " + std::to_string(block.index) +
            ": threads do not meet at a collective:";
  for (int begin = 0, t = 0; t < block.threads; ++t) {
    const auto state = [](const Thread& x) { return x.finished ? "the end" : name_of(x.waits_at); };
    if (t + 1 == block.threads || std::strcmp(state(pool[t]), state(pool[t + 1])) != 0) {
      message += " " + std::to_string(begin) + ".." + std::to_string(t) + " at " + state(pool[t]);
      begin = t + 1;
    }
  }
}

bool run_block(std::mt19937_64& random) {
  for (int t = 0; t < block.threads; ++t) {
    Thread& thread = pool[t];
    thread.context.prepare(thread.stack.get(), thread_main);
    thread.finished = false;
    thread.waits_at = Collective::kNone;
    thread.generation = 0;
  }
  std::vector<int> order(block.threads);
  std::iota(order.begin(), order.end(), 0);
  if (schedule.order == Order::kReverse) {
    std::reverse(order.begin(), order.end());
  }
  while (true) {
    if (schedule.order == Order::kRandom) {
      std::shuffle(order.begin(), order.end(), random);
    }
    for (const int t : order) {
      if (!pool[t].finished && pool[t].waits_at == Collective::kNone) {
        block.current = t;
        enter(pool[t]);
      }
    }
    const auto is_done = [](const Thread& thread) { return thread.finished; };
    if (std::all_of(pool.begin(), pool.begin() + block.threads, is_done)) {
      return true;
    }
    bool progress = release(0, block.threads, true);
    for (int t = 0; t < block.threads; t += kWarp) {
      progress = release(t, t + kWarp, false) || progress;
    }
    if (!progress) {
      describe_deadlock();
      return false;
    }
  }
}

}  // namespace

int64_t block_index() {
  return block.index;
}
int64_t block_count() {
  return block.count;
}
int thread_index() {
  return block.current;
}
void* shared_memory() {
  return block.shared;
}

void arrive(Collective collective, const void* payload, size_t bytes) {
  Thread& thread = pool[block.current];
  if (bytes > 0) {
    std::memcpy(thread.payload[thread.generation % 2], payload, bytes);
  }
  thread.waits_at = collective;
  leave(thread);
}

const void* received(int lane) {
  const Thread& self = pool[block.current];
  return pool[block.current / kWarp * kWarp + lane].payload[(self.generation - 1) % 2];
}

const char* run(void (*body)(const Problem&), const Problem& problem, int64_t blocks, int threads,
                size_t shared_bytes) {
  if (static_cast<int>(pool.size()) < threads) {
    pool = std::vector<Thread>(threads);
  }
  std::mt19937_64 random(schedule.seed);
  for (int64_t b = 0; b < blocks; ++b) {
    // Memory of its own for every block, so that the sanitizers see its end.
    const std::unique_ptr<unsigned char[]> shared(new unsigned char[shared_bytes]);
    std::memset(shared.get(), schedule.fill, shared_bytes);
    block.body = body;
    block.problem = &problem;
    block.index = b;
    block.count = blocks;
    block.threads = threads;
    block.shared = shared.get();
    if (!run_block(random)) {
      return message.c_str();
    }
  }
  return nullptr;
}

}  // namespace torchdet::emulation
