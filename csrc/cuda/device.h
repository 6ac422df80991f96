// The seam between the kernels and the machine that runs them: everything a kernel may ask of CUDA.
//
// Kernels are structs with a static member run(const Problem&), launched by launch<Kernel>(). They
// use the functions of this file and nothing else of CUDA, so the same source also compiles for
// the host, where tests/cuda_emulation/emulation.h provides the same functions and checks their
// use.
//
// Every header of csrc/cuda includes it before those of math/, whose names it marks as the GPU's.
//
// A collective (sync_warp, shuffle, ..) names the lanes that take part, as CUDA's do: each of them
// calls it, with the same lanes. All 32 are named everywhere in csrc/cuda: kernels whose matrices
// are owned by fewer threads, or run out of matrices, keep a warp on the same path and predicate
// memory accesses only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels.h"

namespace torchdet {
constexpr uint32_t kAllLanes = 0xffffffffu;

// The blocks of a cluster, which read each other's shared memory.
template <typename Kernel>
constexpr int cluster_size_of() {
  if constexpr (requires { Kernel::kClusterSize; }) {
    return Kernel::kClusterSize;
  } else {
    return 1;
  }
}
}  // namespace torchdet

#ifdef __CUDACC__

#include <cuda_runtime.h>

#include "runtime.h"

#define TORCHDET_CAPABILITY cuda
#define TORCHDET_DEVICE __device__ __forceinline__

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// 64-bit throughout: a batch may have more matrices than an int can count.
TORCHDET_DEVICE int64_t block_index() {
  return blockIdx.x;
}
TORCHDET_DEVICE int64_t block_count() {
  return gridDim.x;
}
TORCHDET_DEVICE int thread_index() {
  return static_cast<int>(threadIdx.x);
}
TORCHDET_DEVICE void sync_block() {
  __syncthreads();
}
// Of `count` threads of the block, whole warps, which all call it with the same barrier, 1 .. 15.
TORCHDET_DEVICE void sync_threads(int barrier, int count) {
  asm volatile("bar.sync %0, %1;" : : "r"(barrier), "r"(count) : "memory");
}
TORCHDET_DEVICE void sync_warp(uint32_t lanes = kAllLanes) {
  __syncwarp(lanes);
}
template <typename T>
TORCHDET_DEVICE T shuffle(T x, int lane, uint32_t lanes = kAllLanes) {
  return __shfl_sync(lanes, x, lane);
}
template <typename T>
TORCHDET_DEVICE T shuffle_xor(T x, int mask, uint32_t lanes = kAllLanes) {
  return __shfl_xor_sync(lanes, x, mask);
}
TORCHDET_DEVICE bool any_in_warp(bool x, uint32_t lanes = kAllLanes) {
  return __any_sync(lanes, x) != 0;
}
// x, computed here: not later, where only some lanes ask for it. What is computed from the result
// is not kept in registers from an earlier turn of a loop.
template <typename T>
TORCHDET_DEVICE T computed_anew(T x) {
  if constexpr (std::is_same_v<T, float>) {
    asm volatile("" : "+f"(x));
  } else if constexpr (std::is_same_v<T, double>) {
    asm volatile("" : "+d"(x));
  } else if constexpr (sizeof(T) == 8) {
    asm volatile("" : "+l"(x));
  } else {
    asm volatile("" : "+r"(x));
  }
  return x;
}
// 1 / x to some twenty bits, where x and 1 / x are normal numbers: one instruction, where a
// division is a dozen and a call for the cases that cannot occur.
TORCHDET_DEVICE float approximate_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
TORCHDET_DEVICE double approximate_reciprocal(double x) {
  double y;
  asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
  return y;
}
// x is there from here on: a compiler would move what makes it into the branch that uses it.
TORCHDET_DEVICE void compute_here(float& x) {
  asm volatile("" : "+f"(x));
}
TORCHDET_DEVICE void compute_here(double& x) {
  asm volatile("" : "+d"(x));
}
// The largest x of the lanes, in all of them.
TORCHDET_DEVICE int32_t reduce_maximum_in_warp(int32_t x, uint32_t lanes = kAllLanes) {
#if __CUDA_ARCH__ >= 800
  return __reduce_max_sync(lanes, x);
#else
  int32_t largest = x;
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    const int32_t other = shuffle(x, __ffs(rest) - 1, lanes);
    largest = largest > other ? largest : other;
  }
  return largest;
#endif
}
// The block's dynamic shared memory.
template <typename T>
TORCHDET_DEVICE T* shared_memory() {
  extern __shared__ __align__(16) unsigned char torchdet_shared[];
  return reinterpret_cast<T*>(torchdet_shared);
}

// A word of shared memory, where the lanes of a warp access it side by side and its banks matter:
// the emulation counts how often they conflict.
template <typename W>
TORCHDET_DEVICE W load_shared(const void* from) {
  return *static_cast<const W*>(from);
}
template <typename W>
TORCHDET_DEVICE void store_shared(void* to, const W& word) {
  *static_cast<W*>(to) = word;
}

// Clusters are there from compute capability 9.0 on. A kernel that uses them is nothing in code for
// older devices, where it must not be launched (CudaLimits::has_clusters).
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr bool kHasClusters = true;

TORCHDET_DEVICE int cluster_rank() {
  return static_cast<int>(__clusterRelativeBlockRank());
}
// Where the block of that rank has what this block has in `own`, a place in its shared memory. No
// block may end before the others have read and written there, and met behind that.
template <typename T>
TORCHDET_DEVICE T* map_shared(T* own, int rank) {
  return static_cast<T*>(__cluster_map_shared_rank(own, rank));
}
// What a thread has written before it arrives, to global memory too, is there for all that have
// waited.
TORCHDET_DEVICE void arrive_cluster() {
  __cluster_barrier_arrive();
}
TORCHDET_DEVICE void wait_cluster() {
  __cluster_barrier_wait();
}
TORCHDET_DEVICE void sync_cluster() {
  arrive_cluster();
  wait_cluster();
}
#else
constexpr bool kHasClusters = false;

TORCHDET_DEVICE int cluster_rank() {
  return 0;
}
template <typename T>
TORCHDET_DEVICE T* map_shared(T* own, int) {
  return own;
}
TORCHDET_DEVICE void arrive_cluster() {}
TORCHDET_DEVICE void wait_cluster() {}
TORCHDET_DEVICE void sync_cluster() {}
#endif

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kBlocksPerSm)
    run_kernel(const __grid_constant__ Problem problem) {
  Kernel::run(problem);
}

// The percentage that Kernel::kCarveout gives, where a kernel has one.
template <typename Kernel>
constexpr int carveout_of() {
  if constexpr (requires { Kernel::kCarveout; }) {
    return Kernel::kCarveout;
  } else {
    return kNoCarveout;
  }
}

// Starts Kernel on `blocks` blocks in stream order; null, or what went wrong.
template <typename Kernel>
const char* launch(const Problem& problem, unsigned blocks, size_t shared_bytes, void* stream) {
  static PreparedDevices prepared;
  const void* const kernel = reinterpret_cast<const void*>(run_kernel<Kernel>);
  return launch_kernel({kernel, prepared, carveout_of<Kernel>(), Kernel::kThreads,
                        cluster_size_of<Kernel>(), blocks, shared_bytes},
                       problem, stream);
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet

#else

#include "emulation.h"

#endif
