// Fills the kernel table of one instruction set. Included by kernels_<capability>_<precision>.cpp
// only, after the standard headers and after the pragma that selects the instruction set: inline
// functions of the standard library must not be compiled for a newer processor, since the linker
// keeps one copy for all.
#pragma once

#include "../../select.h"
#include "../blocked/det_hvp.h"
#include "../blocked/det_jet.h"
#include "../blocked/kernels.h"
#include "../dispatch/kernel_table.h"
#include "../lane/det_hvp.h"
#include "../lane/det_jet.h"
#include "../lane/kernels.h"
#include "../lane/slogdet_hvp.h"
#include "../matrix/slogdet_hvp.h"
#include "../rows/det_hvp.h"
#include "../rows/kernels.h"

// A build that is to be quick compiles a part of the kernels (tests/sanitize): in lanes the orders
// whose bits are set, and up to so many packs per row with kernels of their own. Others serve the
// orders that are left out.
#ifndef TORCHDET_LANE_ORDERS
#define TORCHDET_LANE_ORDERS ~0u
#endif
#ifndef TORCHDET_OWN_PACKS
#define TORCHDET_OWN_PACKS 8
#endif

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

static_assert(kLargestLane == kMaxLaneOrder, "math/lane.h and select.h disagree");

template <typename T>
using Pack = Vec<T, kVectorBytes / static_cast<int>(sizeof(T))>;

// The kernels of one precision and one kind of numbers, order by order.
template <typename V>
struct KernelsOf {
  static constexpr int W = LaneTraits<V>::kWidth;
  static constexpr Orders kLane = lane_orders(kVectorBytes, sizeof(ScalarOf<V>), kIsComplex<V>);
  static constexpr Orders kRows = row_orders(kVectorBytes, sizeof(ScalarOf<V>), kIsComplex<V>);
  static_assert(kLane.determinants <= kLargestLane && kLane.cofactors <= kLane.determinants &&
                kLane.hvp <= kLane.determinants);
  static_assert(kRows.determinants <= kLargestRows && kRows.cofactors <= kLargestRows);
  static_assert(kRows.cofactors + 1 >= kLeastFactors, "no room for the factors that are kept");

  template <int N>
  static void set_lane(Kernels (&kernels)[kLargestRows + 1]) {
    if constexpr ((TORCHDET_LANE_ORDERS >> N & 1) != 0) {
      using K = LaneKernels<V, N>;
      kernels[N].determinants = K::determinants;
      if constexpr (N <= kLane.cofactors) {
        kernels[N].cofactors = K::cofactor_matrices;
      }
      if constexpr (N <= kLane.hvp) {
        kernels[N].hvp = LaneHvp<V, N>::det_hvp;
      }
    }
    if constexpr (N > 1) {
      set_lane<N - 1>(kernels);
    }
  }
  // The orders kBegin to kEnd: kPacks packs per row, or any number for 0.
  template <int kPacks, int kBegin, int kEnd>
  static void set_rows(Kernels (&kernels)[kLargestRows + 1]) {
    constexpr int kGroup = row_group(kVectorBytes, kPacks);
    using K = RowsKernels<V, kPacks, kEnd / W, kGroup>;
    if constexpr (kEnd > kLane.determinants) {
      for (int n = kBegin; n <= std::min(kEnd, kRows.determinants); ++n) {
        kernels[n].determinants = K::determinants;
      }
    }
    if constexpr (kEnd > kLane.cofactors) {
      for (int n = kBegin; n <= std::min(kEnd, kRows.cofactors); ++n) {
        kernels[n].cofactors = K::cofactor_matrices;
        if constexpr (kEnd >= least_kept(kIsComplex<V>)) {
          kernels[n].keep = K::determinants;
          kernels[n].from_kept = K::from_kept;
        }
      }
    }
    if constexpr (kEnd > kLane.hvp) {
      for (int n = kBegin; n <= std::min(kEnd, kRows.hvp); ++n) {
        kernels[n].hvp = RowsHvp<V, kPacks, kEnd / W, kGroup>::det_hvp;
      }
    }
  }
  // Up to kPacks packs per row have kernels of their own.
  template <int kPacks>
  static void set_rows_of_packs(Kernels (&kernels)[kLargestRows + 1]) {
    if constexpr (kPacks > 0) {
      set_rows<kPacks, (kPacks - 1) * W + 1, kPacks * W>(kernels);
      set_rows_of_packs<kPacks - 1>(kernels);
    }
  }
  static void set_all_rows(Kernels (&kernels)[kLargestRows + 1]) {
    constexpr int kMost = std::max(kRows.determinants, kRows.cofactors);
    constexpr int kPacks =
        std::min(own_packs(kVectorBytes, sizeof(ScalarOf<V>), kIsComplex<V>), TORCHDET_OWN_PACKS);
    if constexpr (kPacks * W < kOrderOfWord) {
      set_rows<0, kPacks * W + 1, kOrderOfWord>(kernels);
    }
    if constexpr (std::max(kPacks * W, kOrderOfWord) < kMost) {
      set_rows<0, std::max(kPacks * W, kOrderOfWord) + 1, kMost>(kernels);
    }
    set_rows_of_packs<kPacks>(kernels);
  }

  static void set(KernelTable& table, Dtype dtype) {
    Kernels(&kernels)[kLargestRows + 1] = table.small[static_cast<int>(dtype)];
    using B = BlockedKernels<V>;
    const Kernels blocked = {{B::determinants, B::cofactor_matrices, BlockedHvp<V>::det_hvp},
                             B::keep,
                             B::from_kept,
                             RowSlogdetHvp<V>::slogdet_hvp,
                             RowDetJet<V>::det_jet,
                             B::keep};
    table.blocked[static_cast<int>(dtype)] = blocked;
    std::fill(kernels, kernels + kLargestRows + 1, blocked);
    set_all_rows(kernels);
    set_lane<kLane.determinants>(kernels);
    for_steps<1, kLane.hvp + 1, true>([&](auto n) TORCHDET_LANE_LAMBDA {
      constexpr int kOwn = n <= kLargestOwnProducts ? int{n} : 0;
      kernels[n].slogdet_hvp = LaneSlogdetHvp<V, kOwn>::slogdet_hvp;
      kernels[n].det_jet = LaneDetJet<V>::det_jet;
    });
  }
};

// One translation unit each, so that they compile side by side.
template <typename T, Dtype kReal, Dtype kComplex>
void add_kernels(KernelTable& table) {
  table.vector_bytes = kVectorBytes;
  KernelsOf<Pack<T>>::set(table, kReal);
  KernelsOf<Complex<Pack<T>>>::set(table, kComplex);
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
