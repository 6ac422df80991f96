// Barriers of some warps of a block.
#include <algorithm>

#include "races.h"
#include "state.h"

namespace torchdet::emulation {
namespace {

bool waits_at(const Thread& thread, int barrier) {
  return thread.waits_at == Collective::kSyncThreads && thread.barrier == barrier;
}
// body(thread) for those that wait at the barrier, in the block of thread t.
template <typename Body>
void for_waiting(int t, int barrier, Body body) {
  const auto begin = pool.begin() + t / block.threads * block.threads;
  for (auto thread = begin; thread != begin + block.threads; ++thread) {
    if (waits_at(*thread, barrier)) {
      body(*thread);
    }
  }
}
int count_waiting(int t, int barrier) {
  int count = 0;
  for_waiting(t, barrier, [&](const Thread&) { ++count; });
  return count;
}
// The barrier of that block, for races.h, in the place of the first thread.
races::Meeting meeting(int t, int barrier) {
  return {Collective::kSyncThreads, t / block.threads * 16 + barrier, 0};
}

}  // namespace

bool meet_at_barrier(int t, std::mt19937_64& random) {
  const int barrier = pool[t].barrier;
  if (count_waiting(t, barrier) != pool[t].count) {
    return false;
  }
  if (schedule.order != Order::kRandom || random() % 2 != 0) {
    for_waiting(t, barrier, [](Thread& thread) { thread.waits_at = Collective::kNone; });
    races::met(meeting(t, barrier));
  }
  return true;
}

void arrive(int barrier, int count) {
  Thread& thread = pool[block.current];
  const std::string call =
      " calls sync_threads of " + std::to_string(count) + " at barrier " + std::to_string(barrier);
  if (barrier < 1 || barrier > 15 || count < kWarp || count % kWarp != 0) {
    fail(call);
  }
  for_waiting(block.current, barrier, [&](const Thread& other) {
    if (other.count != count) {
      fail(call + ", where others wait for " + std::to_string(other.count));
    }
  });
  if (count_waiting(block.current, barrier) == count) {
    fail(call + ", where all have arrived");
  }
  thread.waits_at = Collective::kSyncThreads;
  thread.lanes = kAllLanes;
  thread.barrier = barrier;
  thread.count = count;
  void* const arrived = races::arrive(meeting(block.current, barrier));
  leave(thread);
  races::go_on(arrived);
}

}  // namespace torchdet::emulation
