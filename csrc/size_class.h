// The size classes: who owns a matrix of order n at the most. Complex numbers and narrow packs
// leave "lane" earlier (cpu/kernel_table.h). Kernels, tests and benchmarks all read this table
// (torchdet._C.build_info()["size_classes"]).
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
    {"lane", 14, "one matrix per SIMD lane, order known at compile time"},
    {"rows", 64, "one matrix per thread, rows in SIMD packs, Gauss-Jordan elimination"},
    {"blocked", std::numeric_limits<int64_t>::max(),
     "one matrix at a time, elimination by panels; threads share it where the batch is small"},
};

// Shared memory bounds the class "block": the launch compares what a kernel needs with what the
// device has. The order given is that of float32 cofactors in 227 KB.
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
// Cofactors leave the class "lane" earlier than determinants, and Hessian-vector products later.
// Time per matrix in ns of the bare kernels, outputs at hand, on one AVX-512 core, lane / rows:
//   det float32       n = 12: 84 / 139    n = 14: 116 / 167    n = 16: 180 / 187
//   det float64       n = 12: 167 / 284   n = 14: 275 / 300    n = 16: 360 / 318
//   cofactor float32  n = 10: 167 / 253   n = 12: 277 / 280    n = 14: 388 / 318
//   cofactor float64  n = 9: 264 / 330    n = 12: 537 / 466
//   det complex64     n = 8: 70 / 240     n = 14: 270 / 455
//   det complex128    n = 8: 145 / 248    n = 14: 600 / 910
//   cofactor complex64   n = 5: 66 / 305    n = 8: 200 / 530    n = 10: 450 / 660
//   cofactor complex128  n = 5: 120 / 290   n = 8: 390 / 520    n = 10: 940 / 1230
// and with AVX2:
//   det float64       n = 10: 246 / 400   n = 14: 430 / 800
//   det complex64     n = 8: 105 / 252    n = 14: 405 / 690
//   det complex128    n = 8: 213 / 405    n = 14: 830 / 1250
//   cofactor complex64   n = 8: 256 / 485   n = 10: 590 / 770
//   cofactor float64     n = 8: 222 / 336   n = 10: 660 / 490, packs of four
//   cofactor complex128  n = 8: 520 / 735   n = 10: 1170 / 1050, packs of four
// On an EPYC with AVX-512, determinants kept with their gradients:
//   float32  n = 10: 82 / 244    n = 12: 127 / 279   n = 14: 182 / 320   n = 16: 268 / 344
//   float64  n = 10: 162 / 283   n = 12: 260 / 333   n = 14: 374 / 382   n = 16: 534 / 430
constexpr int64_t kLargestLaneCofactors = 12;
constexpr int64_t kLargestLaneHvp = 32;

// From this order on, a forward pass on the CPU that will have a backward pass keeps what helps it:
// the gradient itself to n = kLargestRows, computed along with the determinant, so that backward
// only multiplies; and the factors in the class "blocked" (cpu/kept.h). The first saves a
// factorisation, but costs a pass through memory. Forward and backward of det without it take so
// many times as long as with it, at 1 MB of float32: n = 5: 0.61, n = 8: 0.86, n = 10: 0.59,
// n = 11: 1.06, n = 12: 1.03, n = 16: 1.39, n = 32: 1.24, n = 64: 1.26.
constexpr int64_t kLeastKept = 11;

// How many integers are kept of a matrix, beside n x n numbers.
constexpr int64_t kept_integers(int64_t n) {
  return n <= kLargestRows ? 1 : 3 * n + 2;
}

}  // namespace torchdet
