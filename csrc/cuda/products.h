// Products of two matrices in shared memory, Z^T X and X (Z^T X): what second derivatives from an
// inverse X along a direction Z are made of.
//
// Every number of a product is one chain of multiply-adds in ascending order, as in the SIMD lanes
// of the CPU. So the bits depend on nothing but the factors, and are the same in all classes.
#pragma once

#include "block/matrix.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// A group of kLaneRows x kLaneColumns lanes, each with a tile of kTileRows x kTileColumns numbers
// of a product. A group covers all rows of a matrix and a strip of its columns; both products of a
// strip are computed before the next strip, so Z^T X is never there as a whole. Groups of up to 32
// lanes are of one warp, all of whose groups do the same at a time; larger ones are blocks.
template <typename V, int kTileRows, int kLaneRows, int kLaneColumns>
class ProductGroup {
 public:
  static constexpr int kLanes = kLaneRows * kLaneColumns;
  static constexpr int kCount = Chunk<V>::kCount, kTileColumns = 4;
  static constexpr int kTileWords = kTileColumns / kCount;
  static constexpr int kStripWords = kLaneColumns * kTileWords;
  static constexpr int kStripColumns = kStripWords * kCount;
  // One strip is the whole matrix: then Z^T X takes the place of Z.
  static constexpr bool kHasOneStrip = kLaneRows * kTileRows <= kStripColumns;

  // Words w, w + kLaneColumns, .. of a strip, so that neighbouring lanes read neighbouring words.
  struct Tile {
    Chunk<V> x[kTileRows][kTileWords];
  };

  // Rows that no tile reaches beyond.
  TORCHDET_ANYWHERE static int rows_of(int n) {
    return (n + kTileRows - 1) / kTileRows * kTileRows;
  }
  // Of a factor, and of a strip where it has memory of its own.
  TORCHDET_ANYWHERE static int numbers_of_matrix(int n) { return rows_of(n) * block_stride<V>(n); }
  TORCHDET_ANYWHERE static int numbers_of_strip(int n) {
    return kHasOneStrip ? 0 : rows_of(n) * kStripColumns;
  }

  const int n, rank, stride, strip_stride;
  const int row, word;                 // of the tile; the word within a strip
  V *const z, *const x, *const strip;  // Z^T, X, and columns of Z^T X, then of the result

  TORCHDET_DEVICE ProductGroup(int order, V* of_z, V* of_x, V* of_strip)
      : n(order),
        rank(thread_index() % kLanes),
        stride(block_stride<V>(order)),
        strip_stride(kHasOneStrip ? stride : kStripColumns),
        row(rank / kLaneColumns * kTileRows),
        word(rank % kLaneColumns),
        z(of_z),
        x(of_x),
        strip(kHasOneStrip ? of_z : of_strip) {}

  TORCHDET_DEVICE static void sync() {
    if constexpr (kLanes <= kWarpSize) {
      sync_warp();
    } else {
      sync_block();
    }
  }

  // load(i, j), then store(i, j, what it returned), for the rows x width places, dealt out row by
  // row; kAhead loads are on their way before the first is waited for.
  template <int kAhead = 4, typename Load, typename Store>
  TORCHDET_DEVICE void for_places(int rows, int width, Load load, Store store) const {
    const int down = kLanes / width, right = kLanes % width;
    int i = rank / width, j = rank % width;
    while (i < rows) {
      decltype(load(0, 0)) held[kAhead];
      int at_i[kAhead], at_j[kAhead];
      TORCHDET_UNROLL
      for (int t = 0; t < kAhead; ++t) {
        at_i[t] = i;
        at_j[t] = j;
        if (i < rows) {
          held[t] = load(i, j);
        }
        i += down;
        j += right;
        if (j >= width) {
          j -= width;
          ++i;
        }
      }
      TORCHDET_UNROLL
      for (int t = 0; t < kAhead; ++t) {
        if (at_i[t] < rows) {
          store(at_i[t], at_j[t], held[t]);
        }
      }
    }
  }

  // put(i, j, number) for the entries of a matrix, along rows of the memory that is read, whichever
  // way the matrix lies.
  template <typename Put>
  TORCHDET_DEVICE void read(const BatchView& view, int64_t b, Put put) const {
    const V* from = static_cast<const V*>(view.data) + view.offset(b);
    const bool by_columns = view.row_stride == 1 && view.column_stride != 1;
    const int64_t down = by_columns ? view.column_stride : view.row_stride;
    const int64_t right = by_columns ? view.row_stride : view.column_stride;
    const auto put_there = [&](int i, int j, V number) {
      put(by_columns ? j : i, by_columns ? i : j, number);
    };
    const bool wide = right == 1 && n % kCount == 0 && down % kCount == 0 &&
                      reinterpret_cast<uintptr_t>(from) % sizeof(Wide) == 0;
    if (wide) {
      for_places(
          n, n / kCount,
          [&](int i, int w) { return Chunk<V>::load_elsewhere(from + i * down + w * kCount); },
          [&](int i, int w, const Chunk<V>& numbers) {
            TORCHDET_UNROLL
            for (int e = 0; e < kCount; ++e) {
              put_there(i, w * kCount + e, numbers.x[e]);
            }
          });
    } else {
      for_places(n, n, [&](int i, int j) { return from[i * down + j * right]; }, put_there);
    }
  }

  // Whether word t of the lane's tile, in the strip that begins with word `first`, is one of the
  // matrix. A lane whose first word is none has nothing to do.
  TORCHDET_DEVICE bool has_word(int t, int first) const {
    return first + word + t * kLaneColumns < words_of<V>(n);
  }
  TORCHDET_DEVICE bool has_tile(int first) const { return row < n && has_word(0, first); }

  // tile <- A B, or -A B, of the words of B from `begin` on; `first` as above. What lies beyond
  // row or column n of A and B is read, and makes numbers beyond those of the product only.
  template <bool kNegative>
  TORCHDET_DEVICE void multiply(const V* A, const V* B, int B_stride, int begin, int first,
                                Tile& tile) const {
    if (!has_tile(first)) {
      return;
    }
    TORCHDET_UNROLL
    for (int r = 0; r < kTileRows; ++r) {
      TORCHDET_UNROLL
      for (int t = 0; t < kTileColumns; ++t) {
        tile.x[r][t / kCount].x[t % kCount] = zero<V>();
      }
    }
    const V* factors = A + row * stride;
    const V* from = B + (begin + word) * kCount;
    TORCHDET_ROLL
    for (int k = 0; k < n; k += kCount) {
      Chunk<V> a[kTileRows];
      TORCHDET_UNROLL
      for (int r = 0; r < kTileRows; ++r) {
        a[r] = Chunk<V>::load(factors + r * stride + k);
      }
      TORCHDET_UNROLL
      for (int e = 0; e < kCount; ++e) {
        if (k + e < n) {
          TORCHDET_UNROLL
          for (int t = 0; t < kTileWords; ++t) {
            if (t == 0 || has_word(t, first)) {
              const Chunk<V> y = Chunk<V>::load(from + t * kLaneColumns * kCount);
              TORCHDET_UNROLL
              for (int r = 0; r < kTileRows; ++r) {
                TORCHDET_UNROLL
                for (int c = 0; c < kCount; ++c) {
                  V& sum = tile.x[r][t].x[c];
                  sum = kNegative ? fnma(a[r].x[e], y.x[c], sum) : fma(a[r].x[e], y.x[c], sum);
                }
              }
            }
          }
          from += B_stride;
        }
      }
    }
  }

  // The strip <- the tiles of all lanes.
  TORCHDET_DEVICE void store(const Tile& tile, int first) const {
    if (!has_tile(first)) {
      return;
    }
    TORCHDET_UNROLL
    for (int r = 0; r < kTileRows; ++r) {
      TORCHDET_UNROLL
      for (int t = 0; t < kTileWords; ++t) {
        if (t == 0 || has_word(t, first)) {
          tile.x[r][t].store(strip + (row + r) * strip_stride + (word + t * kLaneColumns) * kCount);
        }
      }
    }
  }
};

// Of orders up to N in a warp: several matrices where they are small. Of N = 24 those of 32.
template <typename V, int N>
using WarpProducts = ProductGroup<V, N == 8 ? 4 : 8, (N > 16) ? 4 : 2, N == 24 ? 8 : N / 4>;

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
