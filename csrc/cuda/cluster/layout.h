// How a matrix is dealt out to the blocks of a cluster, and where things lie in a block's shared
// memory.
//
// Columns go in groups of one panel, group g to block g mod C of the cluster of C blocks: what is
// left of the matrix stays shared among all of them. A block keeps the n rows of its groups side by
// side, in words of 16 bytes, and two panels of multipliers: the one that it works with and the one
// that it makes or fetches.
#pragma once

#include "../block/matrix.h"
#include "../pivot.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// Columns of a panel: four words of each row. Narrow panels keep the two buffers small, deal the
// columns out evenly, and shorten what is done between two panels on the way from one pivot to the
// next; wide ones save barriers of the cluster, one for each panel.
constexpr int kClusterPanelWords = 4;
template <typename V>
constexpr int kClusterPanel = kClusterPanelWords * Chunk<V>::kCount;

// What a block may have on devices of compute capability 9.0.
constexpr size_t kClusterShared = 227 * 1024;

TORCHDET_ANYWHERE constexpr int quotient_up(int a, int b) {
  return (a + b - 1) / b;
}

template <typename V, int kClusterSize>
struct ClusterLayout {
  static constexpr int P = kClusterPanel<V>, kCount = Chunk<V>::kCount;
  int n, panels;
  int stride;  // numbers between rows
  // Offsets in bytes.
  size_t multipliers[2], lines, keys, pivots, row_index, sizes, slots, determinant, least_column,
      bytes;

  // row_warps: those that have a row of a panel.
  TORCHDET_ANYWHERE constexpr ClusterLayout(int order, int row_warps)
      : ClusterLayout(order, row_warps, words_of_block(order, 0) | 1) {
    if (bytes > kClusterShared) {  // an even number of words between rows: banks conflict more
      *this = ClusterLayout(order, row_warps, words_of_block(order, 0));
    }
  }

  // Columns and words of a row that a block of the cluster owns. Its last group may be shorter.
  TORCHDET_ANYWHERE static constexpr int columns_of_block(int n, int rank) {
    const int panels = quotient_up(n, P), groups = quotient_up(panels - rank, kClusterSize);
    const int missing = (panels - 1) % kClusterSize == rank ? panels * P - n : 0;
    return groups * P - missing;
  }
  TORCHDET_ANYWHERE static constexpr int words_of_block(int n, int rank) {
    return quotient_up(columns_of_block(n, rank), kCount);
  }

  // The largest order that shared memory holds, with no more rows than threads that have 128
  // registers each: four warps on each of the four schedulers.
  static constexpr int largest_order() {
    int n = kClusterSize * P;
    while (n < 512 && ClusterLayout(n + 1, quotient_up(n + 1, kWarpSize)).bytes <= kClusterShared) {
      ++n;
    }
    return n;
  }

 private:
  TORCHDET_ANYWHERE constexpr ClusterLayout(int order, int row_warps, int words)
      : n(order), panels(quotient_up(order, P)), stride(words * kCount), multipliers(), bytes(0) {
    take(size_t(n) * stride * sizeof(V));  // the columns
    multipliers[0] = take(size_t(n) * P * sizeof(V));
    multipliers[1] = take(size_t(n) * P * sizeof(V));
    lines = take(2 * row_warps * P * sizeof(V));
    keys = take(2 * row_warps * sizeof(int32_t));
    pivots = take(2 * row_warps * sizeof(PivotDivisor<V>));
    row_index = take(n * sizeof(int));
    sizes = take(n * sizeof(int32_t));
    slots = multipliers[1];  // in use before the second panel is, and no larger from n = 16 on
    determinant = take(sizeof(Scaled<V>));
    least_column = take(sizeof(int32_t));
  }
  TORCHDET_ANYWHERE constexpr size_t take(size_t size) {
    const size_t begin = bytes;
    bytes += (size + sizeof(Wide) - 1) / sizeof(Wide) * sizeof(Wide);
    return begin;
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
