// Which size class of the CUDA kernels serves which matrix (../select.h).
#pragma once

#include "../select.h"

namespace torchdet {

// Shared memory bounds the class "block": the launch compares what a kernel needs with what the
// device has. The order given is that of float32 second derivatives in 227 KB.
constexpr SizeClass kCudaSizeClasses[] = {
    {"thread", 4, "one matrix per thread, in registers", "memory is the limit, no thread waits"},
    {"warp", 64, "one matrix per warp or part of a warp", "a few columns to a lane, in registers"},
    {"block", 167, "one matrix per block, in shared memory", "fits in the shared memory"},
    {"large", std::numeric_limits<int64_t>::max(), "torch's LU between two kernels",
     "does not fit in the shared memory"},
};

// The last order of the classes that have a kernel for each order.
constexpr int64_t kLargestSmall = kCudaSizeClasses[1].largest_n;

// The largest orders of the class "thread": what a thread's registers hold.
constexpr int largest_thread(Op, Dtype) {
  return 4;
}
// The largest orders of the class "warp": what a warp's registers hold. Cofactors keep more beside
// the matrix than determinants.
constexpr int largest_warp(Op op, Dtype dtype) {
  const bool is_hvp = op == Op::kDetHvp || op == Op::kDetBackwardJvp || op == Op::kSlogdetHvp;
  const bool is_determinant = op == Op::kDet || op == Op::kSlogdet || op == Op::kDetFrexp;
  if (is_hvp) {
    return 32;
  }
  if (dtype == Dtype::kComplexDouble) {
    return is_determinant ? 32 : 24;
  }
  return dtype == Dtype::kFloat ? 64 : is_determinant ? 48 : 32;
}

// Where the matrix fits in shared memory; "large" serves where it does not.
constexpr Choice select_cuda(Op op, Dtype dtype, int64_t n) {
  const int64_t largest[] = {largest_thread(op, dtype), largest_warp(op, dtype),
                             kCudaSizeClasses[2].largest_n, kCudaSizeClasses[3].largest_n};
  int i = 0;
  while (n > largest[i]) {
    ++i;
  }
  constexpr const char* kFiles[] = {"csrc/cuda/thread/kernels.h", "csrc/cuda/warp/kernels.h",
                                    "csrc/cuda/block/kernels.h", "csrc/cuda/large/kernels.h"};
  const bool is_hvp = op == Op::kDetHvp || op == Op::kDetBackwardJvp;
  const char* const file = op == Op::kSlogdetHvp
                               ? i < 3 ? "csrc/cuda/slogdet_hvp.h" : "csrc/cuda/ops_cuda.cpp"
                           : op == Op::kDetFrexp || op == Op::kDetJet ? "torchdet/_frexp.py"
                           : is_hvp && i > 0                          ? "csrc/cuda/team/kernels.h"
                                                                      : kFiles[i];
  return {&kCudaSizeClasses[i], largest[i], file};
}

}  // namespace torchdet
