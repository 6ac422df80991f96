// Which size class of the CUDA kernels serves which matrix (../select.h).
#pragma once

#include "../select.h"

namespace torchdet {

// Shared memory bounds the class "block": the launch compares what a kernel needs with what the
// device has. The order given is that of float32 in 227 KB.
constexpr SizeClass kCudaSizeClasses[] = {
    {"thread", 12, "one matrix per thread, in registers", "memory is the limit, no thread waits"},
    {"warp", 64, "one matrix per warp or part of a warp", "a few columns to a lane, in registers"},
    {"block", 256, "one matrix per block, in shared memory", "fits in the shared memory"},
    {"cluster", 512, "one matrix per cluster of 2 to 8 blocks, in their shared memory",
     "fits in the shared memory of a cluster"},
    {"large", std::numeric_limits<int64_t>::max(), "an LU, torch's or our own, between kernels",
     "does not fit in the shared memory"},
};

// The last order of the classes that have a kernel for each order.
constexpr int64_t kLargestSmall = kCudaSizeClasses[1].largest_n;

// The largest order of the class "thread" that has formulas of its own; above is elimination.
constexpr int kLargestClosedThread = 4;

// The largest orders of the class "thread": what a thread's registers hold. A second derivative has
// three matrices.
constexpr int largest_thread(Op op, Dtype dtype) {
  switch (op) {
    case Op::kDetHvp:
    case Op::kDetBackwardJvp:
    case Op::kSlogdetHvp:
    case Op::kDetJet:
      return kLargestClosedThread;
    default:
      return dtype == Dtype::kFloat ? 12 : dtype == Dtype::kComplexDouble ? 5 : 8;
  }
}
// The largest orders of the class "warp": what a warp's registers hold. Cofactors keep more beside
// the matrix than determinants.
constexpr int largest_warp(Op op, Dtype dtype) {
  const bool is_hvp = op == Op::kDetHvp || op == Op::kDetBackwardJvp || op == Op::kSlogdetHvp;
  const bool is_determinant = op == Op::kDet || op == Op::kSlogdet || op == Op::kDetFrexp;
  if (is_hvp) {  // of det and complex128, a product has no room for its tile above
    return op != Op::kSlogdetHvp && dtype == Dtype::kComplexDouble ? 16 : 32;
  }
  if (dtype == Dtype::kComplexDouble) {
    return is_determinant ? 32 : 24;
  }
  return dtype == Dtype::kFloat ? 64 : is_determinant ? 48 : 32;
}
// The largest orders of the class "block": what fits in 227 KB of shared memory. Cofactors need n^2
// numbers, the Hessian-vector products of both kinds 2 n^2. So do determinants, but in float32,
// where columns may come late, to 256 rows, which is all that its pivot search can tell apart.
constexpr int largest_block(Op op, Dtype dtype) {
  constexpr int kDeterminants[kDtypes] = {256, 168, 168, 119};
  constexpr int kCofactors[kDtypes] = {238, 168, 168, 119};
  constexpr int kHvp[kDtypes] = {156, 110, 110, 76}, kSlogdetHvp[kDtypes] = {160, 110, 110, 73};
  const int d = static_cast<int>(dtype);
  switch (op) {
    case Op::kDet:
    case Op::kSlogdet:
    case Op::kDetFrexp:
      return kDeterminants[d];
    case Op::kDetHvp:
    case Op::kDetBackwardJvp:
    case Op::kDetJet:
      return kHvp[d];
    case Op::kSlogdetHvp:
      return kSlogdetHvp[d];
    default:
      return kCofactors[d];
  }
}

// --- The class "cluster" ---

// Clusters have 2, 4 or 8 blocks: as few as hold the matrix, so that as many matrices as possible
// are at work side by side.
constexpr int kClusterSizes = 3;
constexpr int cluster_size(int i) {
  return 2 << i;
}
// The largest orders of the class "cluster" in 227 KB for each of eight blocks; those of "block"
// where the operator has no such kernel.
constexpr int largest_cluster(Op op, Dtype dtype) {
  constexpr int kDeterminants[kDtypes] = {512, 393, 393, 296};
  return op == Op::kDet || op == Op::kSlogdet ? kDeterminants[static_cast<int>(dtype)]
                                              : largest_block(op, dtype);
}
// Clusters serve batches of this many matrices and more; smaller ones go to "large". A matrix alone
// leaves all but 2 to 8 multiprocessors idle, and still a cluster is predicted to be done in 140 to
// 260 us (n = 288 to 512), the time of its pivots one after the other, where LU on the whole device
// takes several kernels for each of its panels. And with no crossover by batch, the bits of a
// matrix do not depend on the size of its batch.
constexpr int64_t kLeastClusterBatch = 1;

// --- LU of our own in the class "large" ---

// 16 clusters of 8 blocks are what fills the device, and the least that is predicted to be as fast
// as the fastest of torch's kernels (5, 15 and 50 us a matrix at n = 256, 512 and 1024 in float32,
// where those take 5, 18 and 80 in larger batches). Above 2048 a matrix has more rows than the
// largest cluster has threads.
constexpr int64_t kLeastLuBatch = 16, kLargestLu = 2048;

// Which cluster factors a matrix (cluster_size(i)); -1: torch. As few blocks as have a thread for
// each row, but more while two of them on each multiprocessor are not enough to fill the device.
constexpr int select_lu_cluster(int64_t n, int64_t batch, int multiprocessors) {
  constexpr int64_t kRowsOfBlock = kLargestLu / cluster_size(kClusterSizes - 1);
  if (batch < kLeastLuBatch || n > kLargestLu) {
    return -1;
  }
  int i = 0;
  while (i + 1 < kClusterSizes && (n > kRowsOfBlock * cluster_size(i) ||
                                   batch * cluster_size(i + 1) <= 2 * multiprocessors)) {
    ++i;
  }
  return i;
}

// Where the matrix fits in shared memory; "large" serves where it does not.
constexpr Choice select_cuda(Op op, Dtype dtype, int64_t n) {
  const int64_t largest[] = {largest_thread(op, dtype), largest_warp(op, dtype),
                             largest_block(op, dtype), largest_cluster(op, dtype),
                             kCudaSizeClasses[4].largest_n};
  int i = 0;
  while (n > largest[i]) {
    ++i;
  }
  const bool is_hvp = op == Op::kDetHvp || op == Op::kDetBackwardJvp;
  const char* const kFiles[] = {
      n <= kLargestClosedThread ? "csrc/cuda/thread/kernels.h"
                                : "csrc/cuda/thread/elimination_kernels.h",
      is_hvp ? "csrc/cuda/warp/hvp.h" : "csrc/cuda/warp/kernels.h",
      is_hvp ? "csrc/cuda/block/hvp.h" : "csrc/cuda/block/kernels.h", "csrc/cuda/cluster/kernels.h",
      is_hvp ? "csrc/cuda/large/hvp.h" : "csrc/cuda/large/kernels.h"};
  const char* const file = op == Op::kSlogdetHvp
                               ? i < 3 ? "csrc/cuda/slogdet_hvp.h" : "csrc/cuda/ops_cuda.cpp"
                           : op == Op::kDetFrexp || op == Op::kDetJet ? "torchdet/_frexp.py"
                                                                      : kFiles[i];
  return {&kCudaSizeClasses[i], largest[i], file};
}
constexpr bool is_large(const Choice& choice) {
  return choice.size_class == &kCudaSizeClasses[4];
}

}  // namespace torchdet
