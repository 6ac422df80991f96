// The second derivative of log|det|, -X (Z^T X) from conj(X) with X = A^-T, in the classes
// "thread", "warp" and "block".
//
// Every number of both products is one chain of multiply-adds in ascending order, as in the SIMD
// lanes of the CPU. So the bits depend on nothing but X and Z, and are the same in all classes.
#pragma once

#include "block/matrix.h"
#include "thread/kernels.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// One matrix per thread.
template <typename V, int N>
struct ThreadSlogdetHvp : ThreadKernel<V, N> {
  TORCHDET_DEVICE static void run(const Problem& p) {
    ThreadMatrices<V, N> matrices(p);
    matrices.apply([&](int64_t b) {
      V x[N * N], z[N * N], h[N * N];
      matrices.read(p.A, b, x);
      matrices.read(p.other, b, z);
      TORCHDET_UNROLL
      for (int t = 0; t < N * N; ++t) {
        x[t] = conj(x[t]);
      }
      TORCHDET_UNROLL
      for (int j = 0; j < N; ++j) {
        V column[N];  // of Z^T X
        TORCHDET_UNROLL
        for (int i = 0; i < N; ++i) {
          column[i] = zero<V>();
          TORCHDET_UNROLL
          for (int k = 0; k < N; ++k) {
            column[i] = fma(z[k * N + i], x[k * N + j], column[i]);
          }
        }
        TORCHDET_UNROLL
        for (int i = 0; i < N; ++i) {
          V sum = zero<V>();
          TORCHDET_UNROLL
          for (int k = 0; k < N; ++k) {
            sum = fnma(x[i * N + k], column[k], sum);
          }
          h[i * N + j] = sum;
        }
      }
      matrices.put([&](int t) { return h[t]; }, [](int t) { return t; });
      matrices.write();
    });
  }
};

// One matrix per group of lanes, in shared memory: kLaneRows x kLaneColumns lanes, each with a tile
// of kTileRows x kTileColumns numbers of a product. A group covers all rows of the matrix and a
// strip of its columns; both products of a strip are computed before the next strip, so Z^T X is
// never there as a whole. kMatrices: groups of a block.
template <typename V, int kTileRows, int kLaneRows, int kLaneColumns, int kMatrices>
struct SharedSlogdetHvp {
  static constexpr Memory kMemory = Memory::kShared;
  static constexpr int kLanes = kLaneRows * kLaneColumns, kThreads = kLanes * kMatrices;
  // As many as leave room for the tile and for its factors in registers.
  static constexpr int kThreadsPerSm = sizeof(V) == 4 ? 512 : sizeof(V) == 8 ? 384 : 256;
  static constexpr int kBlocksPerSm = kThreadsPerSm / kThreads;
  static constexpr int64_t kMatricesPerBlock = kMatrices;
  static_assert(kLanes <= kWarpSize ? kThreads % kWarpSize == 0 : kMatrices == 1);

  static size_t block_bytes(int64_t n) {
    return kMatrices * sizeof(V) * numbers_of_group(static_cast<int>(n));
  }

  TORCHDET_DEVICE static void run(const Problem& p) {
    const int group = thread_index() / kLanes;
    const int64_t own = block_index() * kMatrices + group;
    // A group without a matrix works on the last one once more, and does not write.
    const int64_t b = own < p.batch ? own : p.batch - 1;
    const int n = static_cast<int>(p.n);
    const Group matrix(n, shared_memory<V>() + group * numbers_of_group(n));
    matrix.template read<false>(p.A, b, matrix.x);
    matrix.template read<true>(p.other, b, matrix.z);
    Group::sync();
    for (int word = 0; word < words_of<V>(n); word += kStripWords) {
      Tile tile;
      matrix.template multiply<false>(matrix.z, matrix.x, matrix.stride, word, word, tile);
      Group::sync();
      matrix.store(tile, word);
      Group::sync();
      matrix.template multiply<true>(matrix.x, matrix.strip, matrix.strip_stride, 0, word, tile);
      Group::sync();
      matrix.store(tile, word);
      Group::sync();
      if (own < p.batch) {
        matrix.write(static_cast<V*>(p.out) + b * n * n, word);
      }
    }
  }

 private:
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
  // A word more makes the groups of a warp an odd number of words apart, for the sake of the banks.
  TORCHDET_ANYWHERE static int numbers_of_group(int n) {
    return rows_of(n) * (2 * block_stride<V>(n) + (kHasOneStrip ? 0 : kStripColumns)) + kCount;
  }

  struct Group {
    const int n, rank, stride, strip_stride;
    const int row, word;                 // of the tile; the word within a strip
    V *const z, *const x, *const strip;  // Z^T, X, and columns of Z^T X, then of the result

    TORCHDET_DEVICE Group(int order, V* memory)
        : n(order),
          rank(thread_index() % kLanes),
          stride(block_stride<V>(order)),
          strip_stride(kHasOneStrip ? stride : kStripColumns),
          row(rank / kLaneColumns * kTileRows),
          word(rank % kLaneColumns),
          z(memory),
          x(memory + rows_of(order) * stride),
          strip(kHasOneStrip ? z : x + rows_of(order) * stride) {}

    TORCHDET_DEVICE static void sync() {
      if constexpr (kLanes <= kWarpSize) {
        sync_warp();
      } else {
        sync_block();
      }
    }

    // load(i, j), then store(i, j, what it returned), for the n x width places, dealt out row by
    // row; a few loads are on their way before the first is waited for.
    template <typename Load, typename Store>
    TORCHDET_DEVICE void for_places(int width, Load load, Store store) const {
      constexpr int kAhead = 4;
      const int down = kLanes / width, right = kLanes % width;
      int i = rank / width, j = rank % width;
      while (i < n) {
        decltype(load(0, 0)) held[kAhead];
        int at_i[kAhead], at_j[kAhead];
        TORCHDET_UNROLL
        for (int t = 0; t < kAhead; ++t) {
          at_i[t] = i;
          at_j[t] = j;
          if (i < n) {
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
          if (at_i[t] < n) {
            store(at_i[t], at_j[t], held[t]);
          }
        }
      }
    }

    // kIsZ: to <- Z^T; else to <- X, of which the conjugate is given. Along rows of the memory that
    // is read, whichever way the matrix lies.
    template <bool kIsZ>
    TORCHDET_DEVICE void read(const BatchView& view, int64_t b, V* to) const {
      const V* from = static_cast<const V*>(view.data) + view.offset(b);
      const bool by_columns = view.row_stride == 1 && view.column_stride != 1;
      const int64_t down = by_columns ? view.column_stride : view.row_stride;
      const int64_t right = by_columns ? view.row_stride : view.column_stride;
      const int to_down = by_columns != kIsZ ? 1 : stride,
                to_right = by_columns != kIsZ ? stride : 1;
      const auto put = [&](int i, int j, V number) {
        to[i * to_down + j * to_right] = kIsZ ? number : conj(number);
      };
      const bool wide = right == 1 && n % kCount == 0 && down % kCount == 0 &&
                        reinterpret_cast<uintptr_t>(from) % sizeof(Wide) == 0;
      if (wide) {
        for_places(
            n / kCount,
            [&](int i, int w) { return Chunk<V>::load_elsewhere(from + i * down + w * kCount); },
            [&](int i, int w, const Chunk<V>& numbers) {
              TORCHDET_UNROLL
              for (int e = 0; e < kCount; ++e) {
                put(i, w * kCount + e, numbers.x[e]);
              }
            });
      } else {
        for_places(n, [&](int i, int j) { return from[i * down + j * right]; }, put);
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
            tile.x[r][t].store(strip + (row + r) * strip_stride +
                               (word + t * kLaneColumns) * kCount);
          }
        }
      }
    }

    // The strip's columns to the result.
    TORCHDET_DEVICE void write(V* out, int first) const {
      const V* const from = strip;
      const int begin = first * kCount, width = minimum(n - begin, kStripColumns);
      const bool wide = n % kCount == 0 && reinterpret_cast<uintptr_t>(out) % sizeof(Wide) == 0;
      if (wide) {
        for_places(
            width / kCount,
            [&](int i, int w) { return Chunk<V>::load(from + i * strip_stride + w * kCount); },
            [&](int i, int w, const Chunk<V>& x) {
              x.store_elsewhere(out + int64_t(i) * n + begin + w * kCount);
            });
      } else {
        for_places(
            width, [&](int i, int j) { return from[i * strip_stride + j]; },
            [&](int i, int j, V x) { out[int64_t(i) * n + begin + j] = x; });
      }
    }
  };
};

// Of orders up to N: several matrices per warp where they are small.
template <typename V, int N>
using WarpSlogdetHvp = SharedSlogdetHvp<V, N == 8 ? 4 : 8, N == 32 ? 4 : 2, N / 4,
                                        128 /
                                            (N == 8    ? 4
                                             : N == 16 ? 8
                                                       : 32) /
                                            (static_cast<int>(sizeof(V)) / 4)>;

// Of orders up to 32 kRows: a warp for 32 rows of a strip.
template <typename V, int kRows>
struct BlockSlogdetHvp : SharedSlogdetHvp<V, 8, 4 * kRows, 8, 1> {
  static constexpr int kMostRows = sizeof(V) == 4 ? 6 : 4;
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
