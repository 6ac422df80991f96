// The update: A22 loses L21 U12, tile after tile, each by one block.
#pragma once

#include "solve.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename V, int kClusterSize_>
class LuUpdates : public LuSolves<V, kClusterSize_> {
 public:
  using Base = LuSolves<V, kClusterSize_>;
  using Base::Base, Base::kClusterSize, Base::kThreads, Base::kCount, Base::P;

  // Rows from `first` on of the columns [first, last), by the pivots [k, first).
  TORCHDET_DEVICE void update(int k, int first, int last) {
    const int high = (n_ - first + kTileRows - 1) / kTileRows;
    TORCHDET_ROLL
    for (int tile = rank_;; tile += kClusterSize) {
      const int i = first + tile % high * kTileRows, j = first + tile / high * kTileColumns;
      if (j >= last) {
        return;
      }
      update_tile(k, first, i, j, last);
    }
  }

 protected:
  using Base::n_, Base::rank_;

 private:
  static constexpr int kTileRows = kLuTileRows<V>, kTileColumns = kLuTileColumns;
  static constexpr int kWords = kLuTileWords<V>, kEach = kLuTileEach;  // of a thread
  static constexpr int kStride = LuLayout::kTileStride<V>;
  // Numbers of a column of U that are read at once: a word, where registers are left for it.
  static constexpr int kSteps = sizeof(V) == 8 ? 1 : kCount;
  struct alignas(kSteps * sizeof(V)) Steps {
    V x[kSteps];
  };

  // Chains of multiply-adds in the order of the pivots, whatever tile a number is in: rows that are
  // equal stay equal to the last bit.
  TORCHDET_DEVICE void update_tile(int k, int first, int i0, int j0, int last) {
    const int t = Base::thread();
    // A warp has 8 x 4 threads: neighbours read one word, or neighbouring words, at once.
    const int row = t % 8 + t / 32 % 2 * 8, column = t / 8 % 4 + t / 64 * 4;
    const auto row_of = [&](int w) { return i0 + (row + w * kLuTileThreads) * kCount; };
    const auto column_of = [&](int c) { return j0 + column + c * kLuTileThreads; };
    sync_block();  // the tile before has been read
    stage(k, first, i0, j0, last);
    Chunk<V> x[kWords][kEach];
    TORCHDET_UNROLL
    for (int w = 0; w < kWords; ++w) {
      TORCHDET_UNROLL
      for (int c = 0; c < kEach; ++c) {
        x[w][c] =
            Base::load_rows(Base::column(minimum(column_of(c), last - 1)) + row_of(w), row_of(w));
      }
    }
    sync_block();
    const V* const l_tile = Base::first_piece() + row * kCount;
    const V* const u_tile = Base::second_piece() + column * kStride;
    TORCHDET_ROLL
    for (int s = 0; s < first - k; s += kSteps) {
      Steps u[kEach];
      TORCHDET_UNROLL
      for (int c = 0; c < kEach; ++c) {
        u[c] = load_shared<Steps>(u_tile + c * kLuTileThreads * kStride + s);
      }
      TORCHDET_UNROLL
      for (int e = 0; e < kSteps; ++e) {
        TORCHDET_UNROLL
        for (int w = 0; w < kWords; ++w) {
          const Chunk<V> l =
              Chunk<V>::load(l_tile + (s + e) * kTileRows + w * kLuTileThreads * kCount);
          TORCHDET_UNROLL
          for (int c = 0; c < kEach; ++c) {
            TORCHDET_UNROLL
            for (int r = 0; r < kCount; ++r) {
              x[w][c].x[r] = fnma(l.x[r], u[c].x[e], x[w][c].x[r]);
            }
          }
        }
      }
    }
    TORCHDET_UNROLL
    for (int w = 0; w < kWords; ++w) {
      TORCHDET_UNROLL
      for (int c = 0; c < kEach; ++c) {
        if (column_of(c) < last) {
          Base::store_rows(Base::column(column_of(c)) + row_of(w), row_of(w), x[w][c]);
        }
      }
    }
  }

  // To shared memory: the tile's rows of L, column after column, and its columns of U.
  TORCHDET_DEVICE void stage(int k, int first, int i0, int j0, int last) {
    constexpr int kOfL = kTileRows / kCount, kOfU = P / kCount;  // words of a column, and
    constexpr int kColumnsOfL = kThreads / kOfL, kColumnsOfU = kThreads / kOfU;  // columns at once
    const int t = Base::thread(), i = i0 + t % kOfL * kCount, j = j0 + t / kOfU;
    const V* from_l = Base::column(k + t / kOfL) + i;
    V* to_l = Base::first_piece() + t * kCount;
    TORCHDET_ROLL
    for (int s0 = 0; s0 < first - k; s0 += P) {
      Chunk<V> x[P / kColumnsOfL];
      TORCHDET_UNROLL
      for (int e = 0; e < P / kColumnsOfL; ++e) {
        x[e] = Base::load_rows(from_l, i);
        from_l += kColumnsOfL * n_;
      }
      TORCHDET_UNROLL
      for (int e = 0; e < P / kColumnsOfL; ++e) {
        x[e].store(to_l);
        to_l += kThreads * kCount;
      }
      // Columns that are not there repeat another one.
      const int s = s0 + t % kOfU * kCount;
      const V* from_u = Base::column(minimum(j, last - 1)) + k + s;
      V* const to_u = Base::second_piece() + t / kOfU * kStride + s;
      Chunk<V> y[kTileColumns / kColumnsOfU];
      TORCHDET_UNROLL
      for (int e = 0; e < kTileColumns / kColumnsOfU; ++e) {
        y[e] = Base::load_rows(from_u, k + s);
        from_u += j + (e + 1) * kColumnsOfU < last ? kColumnsOfU * n_ : 0;
      }
      TORCHDET_UNROLL
      for (int e = 0; e < kTileColumns / kColumnsOfU; ++e) {
        y[e].store(to_u + e * kColumnsOfU * kStride);
      }
    }
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
