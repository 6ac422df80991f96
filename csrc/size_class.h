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

// From this order on, where cofactors do not lie in lanes, a forward pass on the CPU that will have
// a backward pass keeps what helps it (cpu/kept.h): to kLargestGradient the gradient itself,
// computed along with the determinant, so that backward only multiplies; above, in the class
// "rows", the first half of its elimination; and in the class "blocked" the factors. That saves a
// factorisation, but moves a matrix twice more through the memory and takes a call 2 to 3
// microseconds (4 to 5 when one matrix was measured here); and bits must not depend on the batch.
// On an EPYC with AVX-512, for nothing / a gradient:
//   1 MB, both passes, ns per matrix: float32 n = 11: 111 / 102, n = 14: 208 / 184; float64 n = 12:
//       269 / 240; complex128 n = 12: 746 / 636
//   one matrix, both passes, microseconds: float32 n = 14: 23.2 / 25.3; complex64 n = 12: 25.1 /
//       26.9; and forward alone, where torch takes 9.2 and 9.6: 6.7 / 10.3 and 7.2 / 12.5
// and for a gradient / the first half, 1 MB, ns per matrix:
//   both passes: float32 n = 17: 456 / 543, n = 32: 995 / 1139, n = 40: 2030 / 2120, n = 64: 5510 /
//       5700; float64 n = 20: 776 / 809, n = 64: 10700 / 11500; complex64 n = 64: 16500 / 15600
//   forward alone: float64 n = 64: 9660 / 5780, n = 128: 60000 / 33800 (torch 63600); with AVX2
//       complex128 n = 64: 43500 / 23800 (torch 37400)
constexpr int64_t kLeastKept = 11, kLargestGradient = 32;

// How many integers are kept of a matrix, beside n x n numbers; more from the order on at which
// some kernels keep factors.
constexpr int64_t kLeastFactors = 65;
constexpr int64_t kept_integers(int64_t n) {
  return n <= kLargestGradient ? 1 : n < kLeastFactors ? n + 1 : 3 * n + 2;
}

}  // namespace torchdet
