// The size classes: who owns a matrix of order n at the most. Cofactors, second derivatives,
// complex numbers and narrow packs leave "lane" and "rows" earlier (tuning.h). Kernels, tests and
// benchmarks all read this table (torchdet._C.build_info()["size_classes"]).
#pragma once

#include <cstdint>
#include <limits>

namespace torchdet {

struct SizeClass {
  const char* name;
  int64_t largest_n;
  const char* owner;
};

constexpr SizeClass kCpuSizeClasses[] = {
    {"lane", 22, "one matrix per SIMD lane, order known at compile time"},
    {"rows", 128, "one matrix per thread, rows in SIMD packs, Gauss-Jordan elimination"},
    {"blocked", std::numeric_limits<int64_t>::max(),
     "one matrix at a time, elimination by panels; threads share it where the batch is small"},
};

// Shared memory bounds the class "block": the launch compares what a kernel needs with what the
// device has. The order given is that of float32 second derivatives in 227 KB.
constexpr SizeClass kCudaSizeClasses[] = {
    {"thread", 4, "one matrix per thread, in registers"},
    {"warp", 32, "one matrix per warp or part of a warp"},
    {"block", 167, "one matrix per block, in shared memory"},
    {"large", std::numeric_limits<int64_t>::max(), "torch's LU between two kernels"},
};

constexpr int64_t kLargestLane = kCpuSizeClasses[0].largest_n;
constexpr int64_t kLargestRows = kCpuSizeClasses[1].largest_n;
constexpr int64_t kLargestThread = kCudaSizeClasses[0].largest_n;
constexpr int64_t kLargestWarp = kCudaSizeClasses[1].largest_n;

// From this order on a forward pass on the CPU that may have a backward pass keeps what helps it
// (cpu/kept.h): in the class "rows" the first half of its elimination, in the class "blocked" the
// factors. Below, both passes together take longer with half an elimination than from A, and a
// gradient that is kept makes a forward pass alone several times as long.
constexpr int64_t kLeastKept = 33;

// How many integers are kept of a matrix, beside n x n numbers; more from the order on at which
// some kernels keep factors.
constexpr int64_t kLeastFactors = 65;
constexpr int64_t count_of_kept_integers(int64_t n) {
  return n < kLeastFactors ? n + 1 : 3 * n + 2;
}

}  // namespace torchdet
