// The CUDA execution model on the host, as far as csrc/cuda/device.h asks for it.
//
// Every CUDA thread is a fiber. The threads of a block run one after the other, each to its next
// collective; blocks follow one another. The order is a choice of the caller (forward, reverse,
// random, where warps also overtake each other): a result that changes with it means that a barrier
// is missing. The blocks of a cluster run together. Shared memory is a heap block of exactly the
// launched size, filled with a pattern: words 0xffffffff are NaN and -1, 0x7fffffff NaN and the
// largest integer. These end the run with a message: a collective at which the lanes that it names
// do not all meet, or do not name the same lanes; a thread that calls one without being named; a
// shuffle from a lane that does not take part; a barrier of the block or the cluster that some
// threads never reach; a named barrier whose threads disagree on their number, or are more; a block
// that ends while another one may still read its shared memory.
//
// With ThreadSanitizer it also sees races between threads that a shuffle happens to order
// (races.h); it counts bank conflicts of accesses by load_shared and store_shared (banks.h), whose
// place and alignment it checks. What it cannot see: rounding of instructions without a host
// equivalent, alignment of other accesses beyond what the sanitizers check.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#define TORCHDET_CAPABILITY emulated
#define TORCHDET_DEVICE [[gnu::always_inline]] inline

namespace torchdet {
namespace emulation {

enum class Order { kForward, kReverse, kRandom };
enum class Collective {
  kNone,
  kSyncBlock,
  kSyncThreads,
  kSyncWarp,
  kShuffle,
  kShuffleXor,
  kAny,
  kMaximum,
  kWaitCluster
};

struct Schedule {
  Order order = Order::kForward;
  uint64_t seed = 0;           // of the random order
  uint32_t fill = 0xffffffff;  // the words of shared memory before a block writes them
};
// How the next launches of this thread run, and what went wrong in the last one ("" if nothing).
inline thread_local Schedule schedule;

constexpr int kWarp = 32;
constexpr size_t kLargestPayload = 8;

// State of the running block, for the functions below.
int64_t block_index();
int64_t block_count();
int thread_index();
void* shared_memory();
int cluster_rank();
void* map_shared(const void* own, int rank);
void arrive_cluster();
void wait_cluster();
// Waits until every thread that takes part has arrived, of a warp the lanes given; the payload of
// each can be read with receive() until the next collective.
void arrive(Collective collective, uint32_t lanes, const void* payload, size_t bytes);
void receive(int lane, void* to, size_t bytes);
// The running thread accesses shared memory by load_shared or store_shared (banks.h).
void access(const void* address, size_t bytes);
// Waits until `count` threads of the block have arrived at that barrier.
void arrive(int barrier, int count);

// Runs body(problem) in all threads of `blocks` blocks, cluster_size of them at a time; null, or a
// message that stays valid until the next launch.
const char* run(void (*body)(const Problem&), const Problem& problem, int64_t blocks, int threads,
                size_t shared_bytes, int cluster_size);

}  // namespace emulation

inline namespace TORCHDET_CAPABILITY {

inline int64_t block_index() {
  return emulation::block_index();
}
inline int64_t block_count() {
  return emulation::block_count();
}
inline int thread_index() {
  return emulation::thread_index();
}
inline void sync_block() {
  emulation::arrive(emulation::Collective::kSyncBlock, kAllLanes, nullptr, 0);
}
inline void sync_threads(int barrier, int count) {
  emulation::arrive(barrier, count);
}
inline void sync_warp(uint32_t lanes = kAllLanes) {
  emulation::arrive(emulation::Collective::kSyncWarp, lanes, nullptr, 0);
}
template <typename T>
T received_from(int lane) {
  T x;
  emulation::receive(lane, &x, sizeof(T));
  return x;
}
// Plain numbers only, as on the device.
template <typename T>
T shuffle(T x, int lane, uint32_t lanes = kAllLanes) {
  static_assert(sizeof(T) <= emulation::kLargestPayload);
  emulation::arrive(emulation::Collective::kShuffle, lanes, &x, sizeof(T));
  return received_from<T>(lane & (emulation::kWarp - 1));
}
template <typename T>
T shuffle_xor(T x, int mask, uint32_t lanes = kAllLanes) {
  static_assert(sizeof(T) <= emulation::kLargestPayload);
  emulation::arrive(emulation::Collective::kShuffleXor, lanes, &x, sizeof(T));
  return received_from<T>((emulation::thread_index() ^ mask) & (emulation::kWarp - 1));
}
inline bool any_in_warp(bool x, uint32_t lanes = kAllLanes) {
  emulation::arrive(emulation::Collective::kAny, lanes, &x, sizeof(x));
  bool any = false;
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    any = any || received_from<bool>(std::countr_zero(rest));
  }
  return any;
}
template <typename T>
T computed_anew(T x) {
  return x;
}
// As wrong as a GPU's may be, so that who needs more bits must work for them. Subnormal numbers are
// 0, before and after, and NaN comes as a GPU writes it: all bits but the sign (those of float64
// are not documented).
template <typename T>
T approximate_reciprocal(T x) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  const auto flushed = [](T y) {
    return std::fpclassify(y) == FP_SUBNORMAL ? std::copysign(T(0), y) : y;
  };
  const T y = (1 / flushed(x)) * (1 + T(sizeof(T) == 4 ? 0x1p-22 : 0x1p-20));
  return std::isnan(y) ? std::bit_cast<T>(~Bits(0) >> 1) : flushed(y);
}
template <typename T>
void compute_here(T&) {}
inline int32_t reduce_maximum_in_warp(int32_t x, uint32_t lanes = kAllLanes) {
  emulation::arrive(emulation::Collective::kMaximum, lanes, &x, sizeof(x));
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    const int32_t other = received_from<int32_t>(std::countr_zero(rest));
    x = x > other ? x : other;
  }
  return x;
}
template <typename T>
T* shared_memory() {
  return static_cast<T*>(emulation::shared_memory());
}

template <typename W>
TORCHDET_DEVICE W load_shared(const void* from) {
  emulation::access(from, sizeof(W));
  return *static_cast<const W*>(from);
}
template <typename W>
TORCHDET_DEVICE void store_shared(void* to, const W& word) {
  emulation::access(to, sizeof(W));
  *static_cast<W*>(to) = word;
}

constexpr bool kHasClusters = true;

inline int cluster_rank() {
  return emulation::cluster_rank();
}
template <typename T>
T* map_shared(T* own, int rank) {
  return static_cast<T*>(emulation::map_shared(own, rank));
}
inline void arrive_cluster() {
  emulation::arrive_cluster();
}
inline void wait_cluster() {
  emulation::wait_cluster();
}
inline void sync_cluster() {
  arrive_cluster();
  wait_cluster();
}

template <typename Kernel>
const char* launch(const Problem& problem, unsigned blocks, size_t shared_bytes, void*) {
  return emulation::run(Kernel::run, problem, blocks, Kernel::kThreads, shared_bytes,
                        cluster_size_of<Kernel>());
}

}  // namespace TORCHDET_CAPABILITY

}  // namespace torchdet
