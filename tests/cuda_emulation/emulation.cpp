// Fibers and their scheduler; see emulation.h.
#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "context.h"
#include "device.h"

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

struct Thread {
  Context context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  void* sanitizer_stack = nullptr;
  bool finished = false;
  Collective waits_at = Collective::kNone;
  uint32_t lanes = 0;       // that it waits for, or with which it passed the last collective
  unsigned generation = 0;  // collectives passed; payloads alternate, so that a fast thread does
                            // not overwrite what a slow one has yet to read
  unsigned char payload[2][kLargestPayload];
  int arrivals = 0, waits = 0;  // at barriers of the cluster
};

// What one block of the cluster has and has done.
struct SharedMemory {
  // Memory of its own for every block, so that the sanitizers see its end.
  std::unique_ptr<unsigned char[]> data;
  int running = 0;  // threads that have not ended
  // The barrier of the cluster behind which no other block reads this memory any more, as far as
  // they have said.
  int free_behind = 0;
};

// The running cluster, most often of one block.
struct Block {
  void (*body)(const Problem&) = nullptr;
  const Problem* problem = nullptr;
  int64_t index = 0, count = 0;  // index: of the first block
  int threads = 0, cluster_size = 1;
  int current = 0;      // thread, counted through all blocks
  bool failed = false;  // a thread did what it must not
  size_t shared_bytes = 0;
  std::vector<SharedMemory> shared;  // of each block
  Context scheduler;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;
};

thread_local Block block;
thread_local std::vector<Thread> pool;
thread_local std::string message;

int all_threads() {
  return block.cluster_size * block.threads;
}
int rank_of_block() {
  return block.current / block.threads;
}

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

void finish(Thread& thread);

void thread_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &block.scheduler_stack, &block.scheduler_stack_bytes);
#endif
  block.body(*block.problem);
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
    if (is_first && collective != Collective::kNone && collective != Collective::kSyncBlock &&
        collective != Collective::kWaitCluster) {
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
// The running thread goes no further, nor does its block.
[[noreturn]] void fail(const std::string& fault) {
  describe(block_index(), "thread " + std::to_string(thread_index()) + fault);
  block.failed = true;
  leave(pool[block.current]);
  std::abort();  // it is never entered again
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
    std::memset(own.data.get(), schedule.fill ^ 0x5a, block.shared_bytes);
  }
}

bool run_cluster(std::mt19937_64& random) {
  for (SharedMemory& shared : block.shared) {
    shared.data.reset(new unsigned char[block.shared_bytes]);
    std::memset(shared.data.get(), schedule.fill, block.shared_bytes);
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

int cluster_rank() {
  return rank_of_block();
}
// Reading is taken to end at the thread's next arrival at the barrier of the cluster.
const void* map_shared(const void* own, int rank) {
  const unsigned char* const begin = block.shared[rank_of_block()].data.get();
  const size_t offset = static_cast<const unsigned char*>(own) - begin;
  if (offset >= block.shared_bytes) {
    fail(" maps what is not in its shared memory");
  }
  if (rank < 0 || rank >= block.cluster_size) {
    fail(" reads block " + std::to_string(rank) + " of " + std::to_string(block.cluster_size));
  }
  SharedMemory& other = block.shared[rank];
  if (other.running == 0) {
    fail(" reads the shared memory of block " + std::to_string(rank) +
         " of the cluster, which has ended");
  }
  if (rank != rank_of_block()) {
    other.free_behind = std::max(other.free_behind, pool[block.current].arrivals + 1);
  }
  return other.data.get() + offset;
}
void arrive_cluster() {
  Thread& thread = pool[block.current];
  if (thread.arrivals > thread.waits) {
    fail(" arrives at the barrier of the cluster twice");
  }
  ++thread.arrivals;
}
void wait_cluster() {
  const Thread& thread = pool[block.current];
  if (thread.arrivals == thread.waits) {
    fail(" waits at a barrier of the cluster at which it has not arrived");
  }
  arrive(Collective::kWaitCluster, kAllLanes, nullptr, 0);
}

void arrive(Collective collective, uint32_t lanes, const void* payload, size_t bytes) {
  Thread& thread = pool[block.current];
  if ((lanes >> block.current % kWarp & 1) == 0) {
    fail(std::string(" calls ") + name_of(collective) + " of " + name_of(lanes) +
         ", which does not name it");
  }
  if (bytes > 0) {
    std::memcpy(thread.payload[thread.generation % 2], payload, bytes);
  }
  thread.waits_at = collective;
  thread.lanes = lanes;
  leave(thread);
}

const void* received(int lane) {
  const Thread& self = pool[block.current];
  if ((self.lanes >> lane & 1) == 0) {
    fail(" shuffles from lane " + std::to_string(lane) + ", which does not take part in " +
         name_of(self.lanes));
  }
  // Its own generation: other lanes may have met more often. It has not been released since.
  const Thread& other = pool[block.current / kWarp * kWarp + lane];
  return other.payload[(other.generation - 1) % 2];
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
  for (int64_t b = 0; b < blocks; b += cluster_size) {
    block.body = body;
    block.problem = &problem;
    block.index = b;
    block.count = blocks;
    block.failed = false;
    if (!run_cluster(random)) {
      return message.c_str();
    }
  }
  return nullptr;
}

}  // namespace torchdet::emulation
