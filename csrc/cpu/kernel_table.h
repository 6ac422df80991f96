// Fills the kernel table of one instruction set. Included by kernels_<capability>_<precision>.cpp
// only, after the standard headers and after the pragma that selects the instruction set: inline
// functions of the standard library must not be compiled for a newer processor, since the linker
// keeps one copy for all.
#pragma once

#include "blocked_kernels.h"
#include "hvp_kernel.h"
#include "kept_kernel.h"
#include "lane_kernels.h"
#include "sweep_kernels.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

static_assert(kLargestLaneHvp == kMaxLaneOrder, "math/lane.h and size_class.h disagree");

template <typename T>
using Pack = Vec<T, kVectorBytes / static_cast<int>(sizeof(T))>;

// The kernels of one precision and one kind of numbers, order by order.
template <typename V>
struct KernelsOf {
  static constexpr int W = LaneTraits<V>::kWidth;
  static constexpr LaneOrders kLane = lane_orders(kVectorBytes, sizeof(ScalarOf<V>), kIsComplex<V>);
  static constexpr int kRows = row_order(kVectorBytes, sizeof(ScalarOf<V>), kIsComplex<V>);
  // Numbers of packs per row that have kernels of their own: as many as are worth compiling, and
  // all where there are orders beyond kMaxRowsOrder.
  static constexpr int kMaxPacks = kRows > kMaxRowsOrder ? kRows / W : kVectorBytes == 16 ? 0 : 4;
  static_assert(kMaxRowsOrder <= kRows && kRows <= kLargestRows);
  static_assert(kRows + 1 >= kLeastFactors, "no room for the factors that are kept");

  template <int N>
  static void set_lane(Kernels (&kernels)[kLargestRows + 1]) {
    using K = LaneKernels<V, N>;
    kernels[N].determinants = K::determinants;
    if constexpr (N <= kLane.cofactors) {
      kernels[N].cofactors = K::cofactor_matrices;
    }
    if constexpr (N > 1) {
      set_lane<N - 1>(kernels);
    }
  }
  // kPacks packs per row, or any number for 0.
  template <int kPacks>
  static void set_rows(Kernels& kernels) {
    constexpr int kLargestN = kPacks == 0 ? kMaxRowsOrder : kPacks * W;
    constexpr RowGroups kGroup = row_groups(kPacks, kIsComplex<V>);
    if constexpr (kLargestN > kLane.determinants) {
      kernels.determinants = SweepKernel<V, kPacks, kGroup.determinants>::determinants;
    }
    if constexpr (kLargestN > kLane.cofactors) {
      kernels.cofactors = SweepKernel<V, kPacks, kGroup.cofactors>::cofactor_matrices;
    }
  }
  // Up to kLargest packs per row have kernels of their own.
  template <int kLargest>
  static void set_rows(Kernels& kernels, int packs) {
    if constexpr (kLargest == 0) {
      if constexpr (kMaxPacks * W < kRows) {
        set_rows<0>(kernels);
      }
    } else if (packs == kLargest) {
      set_rows<kLargest>(kernels);
    } else {
      set_rows<kLargest - 1>(kernels, packs);
    }
  }

  static void set(KernelTable& table, Dtype dtype) {
    Kernels(&kernels)[kLargestRows + 1] = table.small[static_cast<int>(dtype)];
    using B = BlockedKernels<V>;
    for (int n = 1; n <= kLargestRows; ++n) {
      kernels[n] = {B::determinants, B::cofactor_matrices, RankRevealing<V>::det_hvp};
      if (n <= kRows) {
        set_rows<kMaxPacks>(kernels[n], (n + W - 1) / W);
      }
      if (n <= kLargestLaneHvp) {
        kernels[n].hvp = HvpKernel<V>::det_hvp;
      }
    }
    set_lane<kLane.determinants>(kernels);
    table.largest_rows[static_cast<int>(dtype)] = kRows;
    table.blocked[static_cast<int>(dtype)] = {B::determinants, B::cofactor_matrices,
                                              RankRevealing<V>::det_hvp};
    table.multiply_kept[static_cast<int>(dtype)] = KeptKernel<V>::multiply;
    table.keep_factors[static_cast<int>(dtype)] = B::keep_factors;
    table.from_factors[static_cast<int>(dtype)] = B::from_factors;
  }
};

// One translation unit each, so that they compile side by side.
template <typename T>
void add_kernels(KernelTable& table, Dtype real, Dtype complex) {
  KernelsOf<Pack<T>>::set(table, real);
  KernelsOf<Complex<Pack<T>>>::set(table, complex);
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
