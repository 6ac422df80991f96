// Who serves which matrix. select_cpu here and select_cuda in cuda/select.h are the only places
// where a size class is chosen: kernels are entered in their tables by the orders there, and tests
// and `python -m torchdet explain` ask torchdet._C.select.
//
// A size class is a way to lay a matrix out in a processor. Crossovers are constants found by
// measurement on an EPYC with AVX-512 and on one with AVX2. bench/tuning has later times, of `make
// tune`. By those of a Xeon with AVX-512, panels beat rows from n = 96 on; the limits were left.
#pragma once

#include <cstdint>
#include <limits>

#include "problem.h"

namespace torchdet {

struct SizeClass {
  const char* name;
  int64_t largest_n;  // the largest order over all operators, dtypes and instruction sets
  const char* owner;  // what one matrix is assigned to
  const char* reason;
};

constexpr SizeClass kCpuSizeClasses[] = {
    {"lane", 22, "one matrix per SIMD lane, order known at compile time",
     "a pack holds entry (i, j) of several matrices: no step waits for a search along one matrix"},
    {"rows", 128, "one matrix per thread, rows in SIMD packs, Gauss-Jordan elimination",
     "a row fills one or a few packs, and the matrix stays in the cache: nothing is copied"},
    {"blocked", std::numeric_limits<int64_t>::max(),
     "one matrix at a time, elimination by panels; threads share it where the batch is small",
     "almost all work is products of tiles that stay in registers"},
};

// Serves kSlogdetHvp and kDetJet above the class "lane", at every order. The first is two products,
// the second one LU for all directions.
constexpr SizeClass kCpuProductsAndJets = {
    "blocked", std::numeric_limits<int64_t>::max(), "one matrix per thread, rows in SIMD packs",
    "almost all work is products of tiles that stay in registers"};

constexpr int64_t kLargestLane = kCpuSizeClasses[0].largest_n;
constexpr int64_t kLargestRows = kCpuSizeClasses[1].largest_n;

// --- The crossovers of the CPU ---

using Orders = KernelsByOperator<int>;

// The largest orders {determinants, cofactors, hvp} of the class "lane", by the bytes of a pack and
// of a number. Lanes stop where they are less than 20 % faster than rows (on the first machine),
// since a matrix that comes alone takes the time of a whole pack; with packs of 16 bytes, where
// compile time grows too much.
constexpr Orders lane_orders(int vector_bytes, int number_bytes, bool is_complex) {
  const bool is_single = number_bytes == 4;
  if (vector_bytes == 16) {
    return {16, 10, 8};
  }
  if (vector_bytes == 32) {
    return is_complex  ? Orders{20, is_single ? 10 : 9, 10}
           : is_single ? Orders{20, 12, 12}
                       : Orders{22, 11, 10};
  }
  return is_complex  ? Orders{is_single ? 20 : 18, 12, 12}
         : is_single ? Orders{20, 14, 12}
                     : Orders{15, 12, 11};
}

// The largest orders of the class "rows". Rows end where panels are as fast: with AVX-512 real
// numbers stay to 128, and double precision leaves first, whose matrices fill the cache first.
constexpr Orders row_orders(int vector_bytes, int number_bytes, bool is_complex) {
  const bool is_single = number_bytes == 4;
  if (vector_bytes == 64) {
    const int cofactors = is_complex && !is_single ? 96 : 128;
    return {!is_complex ? 128 : is_single ? 96 : 72, cofactors, cofactors};
  }
  const int cofactors = vector_bytes == 32 && is_single ? 96 : 64;
  return {64, cofactors, cofactors};
}

// --- The choice ---

struct Choice {
  const SizeClass* size_class;
  int64_t largest_n;  // up to which this class serves this operator
  const char* file;   // where its kernel begins
};

constexpr bool is_complex_number(Dtype dtype) {
  return dtype == Dtype::kComplexFloat || dtype == Dtype::kComplexDouble;
}

constexpr Choice select_cpu(Op op, Dtype dtype, int64_t n, int vector_bytes) {
  const bool is_complex = is_complex_number(dtype);
  const int number_bytes = dtype == Dtype::kFloat || dtype == Dtype::kComplexFloat ? 4 : 8;
  const int lane = lane_orders(vector_bytes, number_bytes, is_complex).select(op);
  const int rows = row_orders(vector_bytes, number_bytes, is_complex).select(op);
  const bool is_hvp = op == Op::kDetHvp || op == Op::kDetBackwardJvp;
  if (n <= lane) {
    return {&kCpuSizeClasses[0], lane,
            is_hvp                  ? "csrc/cpu/lane/det_hvp.h"
            : op == Op::kSlogdetHvp ? "csrc/cpu/lane/slogdet_hvp.h"
            : op == Op::kDetJet     ? "csrc/cpu/lane/det_jet.h"
                                    : "csrc/cpu/lane/kernels.h"};
  }
  // Products of large matrices, and LU with many right-hand sides, have no kernel for short rows.
  if (op == Op::kSlogdetHvp || op == Op::kDetJet) {
    return {&kCpuProductsAndJets, kCpuProductsAndJets.largest_n,
            op == Op::kDetJet ? "csrc/cpu/blocked/det_jet.h" : "csrc/cpu/matrix/slogdet_hvp.h"};
  }
  if (n <= rows) {
    return {&kCpuSizeClasses[1], rows,
            is_hvp ? "csrc/cpu/rows/det_hvp.h" : "csrc/cpu/rows/kernels.h"};
  }
  return {&kCpuSizeClasses[2], kCpuSizeClasses[2].largest_n,
          is_hvp ? "csrc/cpu/blocked/det_hvp.h" : "csrc/cpu/blocked/kernels.h"};
}

// --- What one pass leaves to the next ---

// From this order on one inversion on the CPU gives both a gradient of log|det| and the inverse,
// which second derivatives take. Below, an inversion is a few operations, and lanes that write one
// result after the other are as fast.
constexpr int64_t kLeastBothResults = 3;

// From this order on a forward pass on the CPU that may have a backward pass saves what helps it
// (cpu/saved/integers.h): in the class "rows" the first half of its elimination, in the class
// "blocked" the factors. Below, half an elimination of real numbers saves time in the kernels
// (`make tune`), but not in calls, where what is saved is memory of its own. Complex numbers take
// four times the operations for twice the memory, and keep as soon as lanes have ended.
constexpr int64_t kLeastKept = 33, kLeastKeptComplex = 21;
constexpr int64_t least_kept(bool is_complex) {
  return is_complex ? kLeastKeptComplex : kLeastKept;
}

// How many integers are saved of a matrix, beside n x n numbers: a sign and one packed integer for
// each row; or, from kLeastFactors on, where some kernels save factors, a sign, an exchange and
// three integers for each row (cpu/saved/integers.h).
constexpr int64_t kLeastFactors = 65;
constexpr int64_t count_of_factor_integers(int64_t n) {
  return 3 * n + 2;
}
constexpr int64_t count_of_kept_integers(int64_t n) {
  return n < kLeastFactors ? n + 1 : count_of_factor_integers(n);
}

}  // namespace torchdet
