// The size classes: who owns a matrix of order n. Kernels, tests and benchmarks all read this table
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
    {"lane", 8, "one matrix per SIMD lane, order known at compile time"},
    {"rows", 64, "one matrix per thread, rows in SIMD packs, Gauss-Jordan elimination"},
    {"blocked", std::numeric_limits<int64_t>::max(), "one matrix per thread, blocked LU"},
};

constexpr int64_t kLargestLane = kCpuSizeClasses[0].largest_n;
constexpr int64_t kLargestRows = kCpuSizeClasses[1].largest_n;
// Hessian-vector products keep one matrix per lane up to this order.
constexpr int64_t kLargestLaneHvp = 32;

}  // namespace torchdet
