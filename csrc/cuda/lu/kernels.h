// LU with partial pivoting of large matrices, for devices that have thread block clusters: what
// LAPACK's getrf does, in the place of torch's in the class "large". A matrix lies in global
// memory, column after column, and a cluster of 2, 4 or 8 blocks works on it.
//
// Right-looking, on two levels. A block of columns is two panels. A panel is factored by a thread
// for each row (panel.h), in which the time is that of the meetings, two barriers for each pivot.
// The second panel is brought up to date by the first, then the rest of the matrix by both: their
// rows of U (solve.h), and the products (update.h), which are bound by multiply-adds: 512 bytes of
// a row of L and of a column of U give a tile of 128 x 64 numbers 2^20 of them in float32, and it
// moves 160 KB for them. Two clusters share the multiprocessors: while one waits for its pivots the
// other updates. There is no look-ahead within a matrix.
//
// What a row is exchanged with is known at once in the columns to the right, where the rows of U
// are wanted. In the columns to the left, which are L, the exchanges of all later blocks are put
// together and done in one pass at the end.
//
// Every number is a chain of multiply-adds in the order of the pivots, and a multiplier is the
// quotient of two of them, which is exactly 1 where they are equal. So rows that are equal cancel
// to exactly 0, and the bits depend neither on the number of blocks nor on the place in the batch.
// A pivot of 0 has multipliers of 0, as in LAPACK, and what comes behind goes on.
//
// Phases are divided by barriers of the cluster, behind which all blocks see what any of them has
// written to global memory.
#pragma once

#include "update.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename V, int kClusterSize_>
class LuFactors : public LuUpdates<V, kClusterSize_> {
 public:
  using Base = LuUpdates<V, kClusterSize_>;
  using Base::Base, Base::B, Base::P;

  TORCHDET_DEVICE void factor_all() {
    // A turn for each panel. What it is followed by is in the code once: the second panel of its
    // block of columns, or all that is behind the block.
    TORCHDET_ROLL
    for (int k = 0; k < n_; k += P) {
      const int begin = k / B * B;
      Base::begin_phase(k);
      Base::factor(k);
      sync_cluster();
      Base::begin_phase(k);
      if (k > begin) {
        Base::exchange(k, begin, k);
        sync_cluster();
      }
      const int first = k + P, last = k > begin ? n_ : minimum(begin + B, n_);
      if (first < last) {
        Base::begin_phase(k);
        Base::solve(begin, first, last);
        sync_cluster();
        Base::begin_phase(k);
        Base::update(begin, first, last);
        sync_cluster();
      }
    }
  }

 private:
  using Base::n_;
};

// Factors LargeBuffers::factors, and writes the exchanges of rows to LargeBuffers::pivots.
template <typename V, int kClusterSize_>
struct ClusterLu {
  static constexpr Memory kMemory = Memory::kShared;
  static constexpr int kClusterSize = kClusterSize_;
  static constexpr int kThreads = kLuThreads, kBlocksPerSm = 2, kCarveout = 100;
  static constexpr int64_t kMatricesPerBlock = 1;

  // A row of the panel for each thread.
  static size_t block_bytes(int64_t n) {
    return n > kClusterSize * kThreads ? std::numeric_limits<size_t>::max()
                                       : LuLayout::of<V>(static_cast<int>(n)).bytes;
  }

  TORCHDET_DEVICE static void run(const Problem& p) {
    if constexpr (kHasClusters) {
      const int64_t n = p.n, b = block_index() / kClusterSize;
      LuFactors<V, kClusterSize> lu(static_cast<V*>(p.large.factors), b, static_cast<int>(n));
      lu.factor_all();
      // Where the pivots lie takes no register before they are written.
      const int64_t same = computed_anew(block_index()) / kClusterSize;
      lu.finish(p.large.pivots + same * n);
    }
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
