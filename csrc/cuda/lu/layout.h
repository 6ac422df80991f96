// Sizes, and where things lie in the shared memory of a block (kernels.h has the algorithm).
#pragma once

#include "../pivot.h"
#include "../place_key.h"
#include "../warp/matrix.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// Two blocks on a multiprocessor, with 128 registers for each thread.
constexpr int kLuThreads = 256, kLuWarps = kLuThreads / kWarpSize;
// A thread of the cluster has a row of a panel in registers: 64 of them. A block of columns is two
// panels.
template <typename V>
constexpr int kLuPanel = 256 / static_cast<int>(sizeof(V));
template <typename V>
constexpr int kLuBlock = 2 * kLuPanel<V>;

// Rows of the largest cluster; their places in keys.
constexpr int kLuRows = 8 * kLuThreads;
constexpr uint32_t kLuPlaces = kLuRows - 1;

// A tile of the update: 16 x 16 threads of kLuTileWords words of rows and four columns each, which
// are 128 x 64 numbers (complex128: 64 x 64), 64 registers of a thread (float32: 32).
constexpr int kLuTileThreads = 16, kLuTileEach = 4, kLuTileColumns = kLuTileThreads * kLuTileEach;
template <typename V>
constexpr int kLuTileWords = sizeof(V) == 4 ? 2 : 4;
template <typename V>
constexpr int kLuTileRows = kLuTileThreads * kLuTileWords<V> * Chunk<V>::kCount;

// Columns that are solved for at once.
constexpr int kLuSolveColumns = 128;

// A row that may become a pivot row, for those who do not have it; whole words.
template <typename V>
struct alignas(sizeof(Wide)) LuCandidate {
  V row[kLuPanel<V>];
  PivotDivisor<V> divisor;
  int32_t key, place;
};

// Offsets in bytes. Three things have the first two pieces in turn:
//     panels    the columns of the panel, kLuThreads rows of each     candidates
//     solve     U, from row to row kStagedStride numbers              a square of L, by columns
//     update    a tile's rows of L, by columns                        a tile's columns of U
struct LuLayout {
  size_t second, exchanges, bytes;

  template <typename V>
  TORCHDET_ANYWHERE static constexpr LuLayout of(int n) {
    constexpr int P = kLuPanel<V>, B = kLuBlock<V>;
    const size_t numbers = largest(P * kLuThreads, B * kStagedStride, B * kLuTileRows<V>);
    const size_t second = largest(P * P, kLuTileColumns * kTileStride<V>, 0);
    const size_t candidates = 2 * (kLuWarps + kLuWarps) * sizeof(LuCandidate<V>);
    LuLayout layout = {};
    layout.second = numbers * sizeof(V);
    layout.exchanges = layout.second + largest(second * sizeof(V), candidates, 0);
    layout.bytes = layout.exchanges + 3 * ((n * sizeof(uint16_t) + 15) / 16 * 16);
    return layout;
  }

  // An odd number of numbers, so that a column lies in different banks; columns of U an odd number
  // of words apart, for the same reason.
  static constexpr int kStagedStride = kLuSolveColumns + 1;
  template <typename V>
  static constexpr int kTileStride = kLuBlock<V> + Chunk<V>::kCount;

 private:
  TORCHDET_ANYWHERE static constexpr size_t largest(size_t a, size_t b, size_t c) {
    return a > b ? (a > c ? a : c) : b > c ? b : c;
  }
};

// A matrix in global memory, column after column, and what a block has of its own.
template <typename V, int kClusterSize_>
class LuMatrix {
 public:
  static constexpr int kClusterSize = kClusterSize_, kThreads = kLuThreads, kWarps = kLuWarps;
  static constexpr int kCount = Chunk<V>::kCount, P = kLuPanel<V>, B = kLuBlock<V>;

  // Matrix b of those that lie one after the other from `all` on.
  TORCHDET_DEVICE LuMatrix(V* all, int64_t b, int n)
      : n_(n), rank_(cluster_rank()), all_(all), offset_(b * n * n) {}

 protected:
  // Between two phases, and for each of them: what a phase makes of these numbers is not kept in
  // registers, or in memory, through all the others.
  TORCHDET_DEVICE void begin_phase(int& k) {
    k = computed_anew(k);
    n_ = computed_anew(n_);
    rank_ = computed_anew(rank_);
    offset_ = computed_anew(offset_);
  }
  TORCHDET_DEVICE static int thread() { return computed_anew(thread_index()); }

  template <typename X>
  TORCHDET_DEVICE static X* at(size_t offset) {
    return reinterpret_cast<X*>(shared_memory<unsigned char>() + offset);
  }
  TORCHDET_DEVICE static V* first_piece() { return shared_memory<V>(); }
  TORCHDET_DEVICE static V* second_piece() { return at<V>(LuLayout::of<V>(0).second); }

  // The exchanges of the panel that has row i as a row of U: which row, counted before them, goes
  // to place i, and where row i goes.
  TORCHDET_DEVICE static uint16_t& source(int i) {
    return at<uint16_t>(LuLayout::of<V>(0).exchanges)[i];
  }
  TORCHDET_DEVICE uint16_t& destination(int i) const { return (&source(0))[numbers() + i]; }
  // The place that place i is exchanged with, known to the blocks that had a part in it; when these
  // are read, where later exchanges bring row i.
  TORCHDET_DEVICE uint16_t* places() const { return &source(0) + 2 * numbers(); }

  // Whether columns are whole words.
  TORCHDET_DEVICE bool is_whole() const { return n_ % kCount == 0; }
  TORCHDET_DEVICE V* column(int j) const { return all_ + (offset_ + j * n_); }
  TORCHDET_DEVICE int steps_of_panel(int k) const { return minimum(P, n_ - k); }

  // The word of rows i, i + 1, .. of a column, which lie at `from`; 0 behind the end.
  TORCHDET_DEVICE Chunk<V> load_rows(const V* from, int i) const {
    Chunk<V> x;
    if (is_whole() && i < n_) {
      return Chunk<V>::load_elsewhere(from);
    }
    TORCHDET_UNROLL
    for (int e = 0; e < kCount; ++e) {
      x.x[e] = i + e < n_ ? from[e] : zero<V>();
    }
    return x;
  }
  TORCHDET_DEVICE void store_rows(V* to, int i, const Chunk<V>& x) const {
    if (is_whole() && i < n_) {
      x.store_elsewhere(to);
      return;
    }
    TORCHDET_UNROLL
    for (int e = 0; e < kCount; ++e) {
      if (i + e < n_) {
        to[e] = x.x[e];
      }
    }
  }

  int n_, rank_;
  V* const all_;
  int64_t offset_;  // of this matrix

 private:
  // Numbers of 16 bits are three times n, each time whole words.
  TORCHDET_DEVICE int numbers() const { return (n_ + 7) / 8 * 8; }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
