// Threads and their scheduler; see emulation.h.
#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "banks.h"
#include "context.h"
#include "device.h"
#include "races.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace torchdet::emulation {
namespace {

const char* name_of(Collective collective) {
  switch (collective) {
    case Collective::kNone:
      return "nothing";
    case Collective::kSyncBlock:
      return "sync_block";
    case Collective::kSyncThreads:
      return "sync_threads";
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
  uint32_t lanes = 0;          // that it waits for, or with which it passed the last collective
  int barrier = 0, count = 0;  // of sync_threads
  unsigned generation = 0;     // collectives passed; payloads alternate, so that a fast thread does
                               // not overwrite what a slow one has yet to read
  unsigned char payload[2][kLargestPayload];
};

struct Block {
  void (*body)(const Problem&) = nullptr;
  const Problem* problem = nullptr;
  int64_t index = 0, count = 0;
  int threads = 0, current = 0;
  bool failed = false;  // a thread did what it must not
  void* shared = nullptr;
  size_t shared_bytes = 0;
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
  races::enter(block.current);
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
  races::leave();
  Context::switch_to(thread.context, block.scheduler);
#endif
}

void thread_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &block.scheduler_stack, &block.scheduler_stack_bytes);
#endif
  races::begin_thread();
  block.body(*block.problem);
  races::end_thread();
  Thread& thread = pool[block.current];
  thread.finished = true;
  leave(thread);
  std::abort();  // a finished thread is never entered again
}

// Whether those threads of [begin, begin + count) that `lanes` names, a bit for each (beyond 32
// all), wait at the same collective for the same lanes. If so they go on; in random order some
// other time, so that a warp, or a part of one, may be ahead of the others by any number of
// collectives.
bool meet(int begin, int count, uint32_t lanes, Collective collective, std::mt19937_64& random) {
  const auto is_named = [&](int t) { return t >= kWarp || (lanes >> t & 1) != 0; };
  for (int t = 0; t < count; ++t) {
    const Thread& thread = pool[begin + t];
    if (is_named(t) &&
        (thread.finished || thread.waits_at != collective || thread.lanes != lanes)) {
      return false;
    }
  }
  if (schedule.order == Order::kRandom && random() % 2 == 0) {
    return true;
  }
  for (int t = 0; t < count; ++t) {
    if (is_named(t)) {
      pool[begin + t].waits_at = Collective::kNone;
      ++pool[begin + t].generation;
    }
  }
  if (races::orders_memory(collective)) {
    races::met({collective, begin, lanes});
  }
  return true;
}
// The threads that wait at a named barrier.
int count_waiting(int barrier) {
  return static_cast<int>(
      std::count_if(pool.begin(), pool.begin() + block.threads, [&](const Thread& thread) {
        return thread.waits_at == Collective::kSyncThreads && thread.barrier == barrier;
      }));
}
// Those of a named barrier go on, if all have arrived; in random order some other time.
bool meet(int barrier, int count, std::mt19937_64& random) {
  if (count_waiting(barrier) != count) {
    return false;
  }
  if (schedule.order != Order::kRandom || random() % 2 != 0) {
    for (int t = 0; t < block.threads; ++t) {
      if (pool[t].waits_at == Collective::kSyncThreads && pool[t].barrier == barrier) {
        pool[t].waits_at = Collective::kNone;
      }
    }
    races::met({Collective::kSyncThreads, barrier, 0});
  }
  return true;
}
// False where no thread can ever go on.
bool release(std::mt19937_64& random) {
  bool progress = meet(0, block.threads, kAllLanes, Collective::kSyncBlock, random);
  for (int t = 0; t < block.threads; ++t) {
    const Collective collective = pool[t].waits_at;
    const uint32_t lanes = pool[t].lanes;
    const bool is_first = t % kWarp == std::countr_zero(lanes);
    if (collective == Collective::kSyncThreads) {
      progress = meet(pool[t].barrier, pool[t].count, random) || progress;
    } else if (is_first && collective != Collective::kNone &&
               collective != Collective::kSyncBlock) {
      progress = meet(t / kWarp * kWarp, kWarp, lanes, collective, random) || progress;
    }
  }
  return progress;
}

std::string name_of(uint32_t lanes) {
  char text[16];
  std::snprintf(text, sizeof(text), "%#010x", lanes);
  return text;
}

std::string where_is(const Thread& thread) {
  return thread.finished ? "the end"
         : thread.lanes == kAllLanes
             ? name_of(thread.waits_at)
             : std::string(name_of(thread.waits_at)) + " of " + name_of(thread.lanes);
}

void describe(const std::string& fault) {
  message = "emulated kernel: block " + std::to_string(block.index) + ": " + fault;
}
void describe_deadlock() {
  describe("threads do not meet at a collective:");
  for (int begin = 0, t = 0; t < block.threads; ++t) {
    if (t + 1 == block.threads || where_is(pool[t]) != where_is(pool[t + 1])) {
      message +=
          " " + std::to_string(begin) + ".." + std::to_string(t) + " at " + where_is(pool[t]);
      begin = t + 1;
    }
  }
}
// The running thread goes no further, nor does its block.
[[noreturn]] void fail(const std::string& fault) {
  describe("thread " + std::to_string(block.current) + fault);
  block.failed = true;
  leave(pool[block.current]);
  std::abort();  // it is never entered again
}

// Byte by byte: a call of memcpy would be an access of the kernel's to ThreadSanitizer.
void copy(void* to, const void* from, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) {
    static_cast<volatile unsigned char*>(to)[i] = static_cast<const unsigned char*>(from)[i];
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
        if (block.failed) {
          return false;
        }
      }
    }
    const auto is_done = [](const Thread& thread) { return thread.finished; };
    if (std::all_of(pool.begin(), pool.begin() + block.threads, is_done)) {
      return true;
    }
    if (!release(random)) {
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

void access(const void* address, size_t bytes) {
  // Of the instruction that called: a name for it, since all accesses are inlined.
  const void* const instruction = __builtin_return_address(0);
  const size_t offset =
      reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(block.shared);
  if (offset >= block.shared_bytes || bytes > block.shared_bytes - offset || offset % bytes != 0) {
    fail(" accesses " + std::to_string(bytes) + " bytes at place " +
         std::to_string(static_cast<int64_t>(offset)) + " of " +
         std::to_string(block.shared_bytes) + " bytes of shared memory");
  }
  banks::note({block.current / kWarp, pool[block.current].generation, instruction},
              block.current % kWarp, offset, bytes);
}

void arrive(Collective collective, uint32_t lanes, const void* payload, size_t bytes) {
  Thread& thread = pool[block.current];
  if ((lanes >> block.current % kWarp & 1) == 0) {
    fail(std::string(" calls ") + name_of(collective) + " of " + name_of(lanes) +
         ", which does not name it");
  }
  copy(thread.payload[thread.generation % 2], payload, bytes);
  thread.waits_at = collective;
  thread.lanes = lanes;
  if (races::orders_memory(collective)) {
    const bool is_block = collective == Collective::kSyncBlock;
    const int begin = is_block ? 0 : block.current / kWarp * kWarp;
    void* const arrived = races::arrive({collective, begin, lanes});
    leave(thread);
    races::go_on(arrived);
  } else {
    leave(thread);
  }
}

void arrive(int barrier, int count) {
  Thread& thread = pool[block.current];
  const std::string call =
      " calls sync_threads of " + std::to_string(count) + " at barrier " + std::to_string(barrier);
  if (barrier < 1 || barrier > 15 || count < kWarp || count % kWarp != 0) {
    fail(call);
  }
  for (int t = 0; t < block.threads; ++t) {
    if (pool[t].waits_at == Collective::kSyncThreads && pool[t].barrier == barrier &&
        pool[t].count != count) {
      fail(call + ", where others wait for " + std::to_string(pool[t].count));
    }
  }
  if (count_waiting(barrier) == count) {
    fail(call + ", where all have arrived");
  }
  thread.waits_at = Collective::kSyncThreads;
  thread.lanes = kAllLanes;
  thread.barrier = barrier;
  thread.count = count;
  void* const arrived = races::arrive({Collective::kSyncThreads, barrier, 0});
  leave(thread);
  races::go_on(arrived);
}

void receive(int lane, void* to, size_t bytes) {
  const Thread& self = pool[block.current];
  if ((self.lanes >> lane & 1) == 0) {
    fail(" shuffles from lane " + std::to_string(lane) + ", which does not take part in " +
         name_of(self.lanes));
  }
  // Its own generation: other lanes may have met more often. It has not been released since.
  const Thread& other = pool[block.current / kWarp * kWarp + lane];
  copy(to, other.payload[(other.generation - 1) % 2], bytes);
}

const char* run(void (*body)(const Problem&), const Problem& problem, int64_t blocks, int threads,
                size_t shared_bytes) {
  if (static_cast<int>(pool.size()) < threads) {
    pool = std::vector<Thread>(threads);
  }
  std::mt19937_64 random(schedule.seed);
  std::vector<std::unique_ptr<unsigned char[]>> kept;
  bool is_sound = true;
  races::begin_launch(threads);
  for (int64_t b = 0; b < blocks && is_sound; ++b) {
    // Memory of its own for every block, so that the sanitizers see its end.
    std::unique_ptr<unsigned char[]> shared(new unsigned char[shared_bytes]);
    for (size_t i = 0; i < shared_bytes; ++i) {
      shared[i] = static_cast<unsigned char>(schedule.fill >> i % 4 * 8);
    }
    block.body = body;
    block.problem = &problem;
    block.index = b;
    block.count = blocks;
    block.threads = threads;
    block.shared = shared.get();
    block.shared_bytes = shared_bytes;
    block.failed = false;
    races::begin_block();
    is_sound = run_block(random);
    banks::end_block();
    if (races::kAreWatched) {  // nothing orders the end of a block and the start of another
      kept.push_back(std::move(shared));
    }
  }
  races::end_launch();
  return is_sound ? nullptr : message.c_str();
}

}  // namespace torchdet::emulation
