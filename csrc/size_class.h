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

// From this order on, a forward pass on the CPU that will have a backward pass keeps what helps it:
// the gradient itself in the classes "lane" and "rows", computed along with the determinant, so
// that backward only multiplies; and the factors in the class "blocked" (cpu/kept.h). The first
// saves a factorisation, but moves a matrix twice more through the memory and takes 4 to 5
// microseconds a call, so that it pays where all matrices together have some 2^21 / n bytes; but
// bits must not depend on the batch. Microseconds for forward and backward of 1 MB of float32,
// without / with it, on an EPYC: n = 5: 198 / 199, n = 6: 199 / 191, n = 8: 236 / 224, which is not
// worth a forward pass of twice the time where no backward pass follows; n = 11: 249 / 236, n = 13:
// 284 / 259, n = 15: 364 / 316. Of 16 matrices, n = 11: 24.2 / 29.5, n = 20: 34.3 / 38.4.
constexpr int64_t kLeastKept = 11, kLargestGradient = 32;

// How many integers are kept of a matrix, beside n x n numbers; more from the order on at which
// some kernels keep factors.
constexpr int64_t kLeastFactors = 65;
constexpr int64_t kept_integers(int64_t n) {
  return n <= kLargestGradient ? 1 : n < kLeastFactors ? n + 1 : 3 * n + 2;
}

}  // namespace torchdet
