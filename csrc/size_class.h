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
    {"unrolled", 8, "one matrix per SIMD lane, order known at compile time"},
    {"lane", 32, "one matrix per SIMD lane"},
    {"rows", std::numeric_limits<int64_t>::max(),
     "one matrix per thread, rows in SIMD packs, blocked"},
};

constexpr int64_t kLargestUnrolled = kCpuSizeClasses[0].largest_n;
constexpr int64_t kLargestLane = kCpuSizeClasses[1].largest_n;

}  // namespace torchdet
