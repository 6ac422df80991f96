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
#include "races.h"
#include "state.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace torchdet::emulation {

thread_local Block block;
thread_local std::vector<Thread> pool;

namespace {

thread_local std::string message;

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
    case Collective::kWaitCluster:
      return "wait_cluster";
    case Collective::kMaximum:
      return "reduce_maximum_in_warp";
    default:
      return "any_in_warp";
  }
}

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
}  // namespace

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

namespace {

void finish(Thread& thread);

void thread_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &block.scheduler_stack, &block.scheduler_stack_bytes);
#endif
  races::begin_thread();
  block.body(*block.problem);
  races::end_thread();
  Thread& thread = pool[block.current];
  finish(thread);
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
// A thread goes on when all of the cluster have arrived as often as it waits for; in random order
// some other time.
bool meet_cluster(std::mt19937_64& random) {
  const auto begin = pool.begin(), end = begin + all_threads();
  const int all = std::min_element(begin, end, [](const Thread& a, const Thread& b) {
                    return a.arrivals < b.arrivals;
                  })->arrivals;
  bool progress = false;
  for (auto thread = begin; thread != end; ++thread) {
    if (thread->waits_at == Collective::kWaitCluster && thread->waits < all) {
      progress = true;
      if (schedule.order != Order::kRandom || random() % 2 == 0) {
        thread->waits_at = Collective::kNone;
        ++thread->waits;
      }
    }
  }
  return progress;
}
// False where no thread can ever go on.
bool release(std::mt19937_64& random) {
  bool progress = meet_cluster(random);
  for (int b = 0; b < block.cluster_size; ++b) {
    progress = meet(b * block.threads, block.threads, kAllLanes, Collective::kSyncBlock, random) ||
               progress;
  }
  for (int t = 0; t < all_threads(); ++t) {
    const Collective collective = pool[t].waits_at;
    const uint32_t lanes = pool[t].lanes;
    const bool is_first = t % kWarp == std::countr_zero(lanes);
    if (collective == Collective::kSyncThreads) {
      progress = meet_at_barrier(t, random) || progress;
    } else if (is_first && collective != Collective::kNone &&
               collective != Collective::kSyncBlock && collective != Collective::kWaitCluster) {
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

void describe(int64_t index, const std::string& fault) {
  message = "emulated kernel: block " + std::to_string(index) + ": " + fault;
}
// Threads are counted through all blocks of the cluster.
void describe_deadlock() {
  describe(block.index, "threads do not meet at a collective:");
  for (int begin = 0, t = 0; t < all_threads(); ++t) {
    if (t + 1 == all_threads() || where_is(pool[t]) != where_is(pool[t + 1])) {
      message +=
          " " + std::to_string(begin) + ".." + std::to_string(t) + " at " + where_is(pool[t]);
      begin = t + 1;
    }
  }
}

}  // namespace

void fail(const std::string& fault) {
  describe(block_index(), "thread " + std::to_string(thread_index()) + fault);
  block.failed = true;
  leave(pool[block.current]);
  std::abort();  // it is never entered again
}

namespace {

// Byte by byte: a call of memcpy or memset would be an access of the kernel's to ThreadSanitizer.
void copy(void* to, const void* from, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) {
    static_cast<volatile unsigned char*>(to)[i] = static_cast<const unsigned char*>(from)[i];
  }
}
void fill(SharedMemory& shared, uint32_t word) {
  for (size_t i = 0; i < block.shared_bytes; ++i) {
    static_cast<volatile unsigned char*>(shared.data.get())[i] =
        static_cast<unsigned char>(word >> i % 4 * 8);
  }
}

// With its last thread a block ends, and what it shared is nobody's.
void finish(Thread& thread) {
  thread.finished = true;
  SharedMemory& own = block.shared[rank_of_block()];
  if (--own.running == 0) {
    const auto begin = pool.begin() + rank_of_block() * block.threads;
    for (auto other = begin; other != begin + block.threads; ++other) {
      if (other->waits < own.free_behind) {
        fail(" ends while other blocks may still read its shared memory");
      }
    }
    fill(own, schedule.fill ^ 0x5a5a5a5a);
  }
}

bool run_cluster(std::mt19937_64& random) {
  for (SharedMemory& shared : block.shared) {
    if (races::kAreWatched) {  // nothing orders the end of a block and the start of another
      block.kept.push_back(std::move(shared.data));
    }
    shared.data.reset(new unsigned char[block.shared_bytes]);
    fill(shared, schedule.fill);
    shared.running = block.threads;
    shared.free_behind = 0;
  }
  for (int t = 0; t < all_threads(); ++t) {
    Thread& thread = pool[t];
    thread.context.prepare(thread.stack.get(), thread_main);
    thread.finished = false;
    thread.waits_at = Collective::kNone;
    thread.generation = 0;
    thread.arrivals = thread.waits = 0;
  }
  races::begin_block();
  std::vector<int> order(all_threads());
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
    if (std::all_of(pool.begin(), pool.begin() + all_threads(), is_done)) {
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
  return block.index + rank_of_block();
}
int64_t block_count() {
  return block.count;
}
int thread_index() {
  return block.current % block.threads;
}
void* shared_memory() {
  return block.shared[rank_of_block()].data.get();
}

void access(const void* address, size_t bytes) {
  // Of the instruction that called: a name for it, since all accesses are inlined.
  const void* const instruction = __builtin_return_address(0);
  const size_t offset =
      reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(shared_memory());
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
    const int begin = is_block ? rank_of_block() * block.threads : block.current / kWarp * kWarp;
    void* const arrived = races::arrive({collective, begin, lanes});
    leave(thread);
    races::go_on(arrived);
  } else {
    leave(thread);
  }
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
                size_t shared_bytes, int cluster_size) {
  block.threads = threads;
  block.cluster_size = cluster_size;
  block.shared_bytes = shared_bytes;
  block.shared = std::vector<SharedMemory>(cluster_size);
  if (static_cast<int>(pool.size()) < all_threads()) {
    pool = std::vector<Thread>(all_threads());
  }
  std::mt19937_64 random(schedule.seed);
  bool is_sound = true;
  races::begin_launch(all_threads());
  for (int64_t b = 0; b < blocks && is_sound; b += cluster_size) {
    block.body = body;
    block.problem = &problem;
    block.index = b;
    block.count = blocks;
    block.failed = false;
    is_sound = run_cluster(random);
    banks::end_block();
  }
  races::end_launch();
  block.kept.clear();
  return is_sound ? nullptr : message.c_str();
}

}  // namespace torchdet::emulation
