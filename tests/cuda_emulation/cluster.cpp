// What the blocks of a cluster do together.
#include <algorithm>

#include "races.h"
#include "state.h"

namespace torchdet::emulation {

int cluster_rank() {
  return rank_of_block();
}
// Reading and writing are taken to end at the thread's next arrival at the barrier of the cluster.
void* map_shared(const void* own, int rank) {
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
  // In the place of lanes a number for each barrier, so that a thread that is ahead has arrived
  // elsewhere.
  const uint32_t number = static_cast<uint32_t>(thread.arrivals % 16);
  thread.arrived = races::arrive({Collective::kWaitCluster, 0, number});
  ++thread.arrivals;
}
void wait_cluster() {
  const Thread& thread = pool[block.current];
  if (thread.arrivals == thread.waits) {
    fail(" waits at a barrier of the cluster at which it has not arrived");
  }
  arrive(Collective::kWaitCluster, kAllLanes, nullptr, 0);
  races::go_on(thread.arrived);
}

}  // namespace torchdet::emulation
