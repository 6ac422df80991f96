// The state of what runs, for the parts of the emulation alone.
#pragma once

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "context.h"
#include "device.h"

namespace torchdet::emulation {

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
  int barrier = 0, count = 0;   // of sync_threads
  int arrivals = 0, waits = 0;  // at barriers of the cluster
  void* arrived = nullptr;      // there, as races.h has it
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
  // That of earlier ones, where the thread sanitizer must not see it used again.
  std::vector<std::unique_ptr<unsigned char[]>> kept;
  Context scheduler;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;
};

extern thread_local Block block;
extern thread_local std::vector<Thread> pool;

inline int all_threads() {
  return block.cluster_size * block.threads;
}
inline int rank_of_block() {
  return block.current / block.threads;
}

// The running thread hands over to the scheduler, until it is entered again.
void leave(Thread& thread);
// Whether all have arrived at the named barrier where thread t waits. If so they go on; in random
// order some other time.
bool meet_at_barrier(int t, std::mt19937_64& random);
// The running thread goes no further, nor does its block.
[[noreturn]] void fail(const std::string& fault);

}  // namespace torchdet::emulation
