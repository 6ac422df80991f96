// Fills the kernel table of one instruction set. Included by kernels_<capability>_<precision>.cpp
// only, after the standard headers and after the pragma that selects the instruction set: inline
// functions of the standard library must not be compiled for a newer processor, since the linker
// keeps one copy for all.
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

// The kernels of one precision, real and complex: one translation unit each, so that they compile
// side by side. Unrolled kernels of complex numbers and of narrow packs beyond n = 4 would double
// the compile time and gain little.
template <typename T>
void add_kernels(KernelTable& table, Dtype real, Dtype complex) {
  constexpr int kOrders = kVectorBytes == 16 ? 4 : static_cast<int>(kLargestUnrolled);
  set_dtype<Pack<T>>(table, real, std::make_integer_sequence<int, kOrders>());
  set_dtype<Complex<Pack<T>>>(table, complex, std::make_integer_sequence<int, 4>());
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
