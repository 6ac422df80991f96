// Builds the kernel table of one instruction set. Included by kernels_<capability>.cpp only, after
// the standard headers and after the pragma that selects the instruction set: inline functions of
// the standard library must not be compiled for a newer processor, since the linker keeps one copy
// for all.
#pragma once

#include "hvp_kernel.h"
#include "lane_kernels.h"
#include "row_kernels.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

static_assert(kLargestLane == kMaxLaneOrder, "math/lane.h and size_class.h disagree");

template <typename T>
using Pack = Vec<T, kVectorBytes / static_cast<int>(sizeof(T))>;

template <typename V, int N>
constexpr Kernels lane_kernels() {
  using K = LaneKernels<V, N>;
  return {K::determinants, K::cofactor_matrices, HvpKernel<V>::det_hvp};
}

template <typename V, int... N>
void set_dtype(KernelTable& table, Dtype dtype, std::integer_sequence<int, N...>) {
  const int d = static_cast<int>(dtype);
  ((table.unrolled[d][N + 1] = lane_kernels<V, N + 1>()), ...);
  table.lane[d] = lane_kernels<V, 0>();
  using K = RowKernels<V>;
  table.rows[d] = {K::determinants, K::cofactor_matrices, K::det_hvp};
}

inline KernelTable make_table(const char* name) {
  KernelTable table{};
  table.name = name;
  // Unrolled kernels of complex numbers and of narrow packs beyond n = 4 would double the compile
  // time and gain little.
  constexpr std::make_integer_sequence<int, 4> few;
  constexpr std::make_integer_sequence<int,
                                       kVectorBytes == 16 ? 4 : static_cast<int>(kLargestUnrolled)>
      all;
  set_dtype<Pack<float>>(table, Dtype::kFloat, all);
  set_dtype<Pack<double>>(table, Dtype::kDouble, all);
  set_dtype<Complex<Pack<float>>>(table, Dtype::kComplexFloat, few);
  set_dtype<Complex<Pack<double>>>(table, Dtype::kComplexDouble, few);
  return table;
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
