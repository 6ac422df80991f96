// Between a panel and the update: exchanges of rows in other columns, and the rows of U there.
//
// Columns are dealt out to the blocks. A warp exchanges the rows of a column, a lane for each row
// of U, several columns at once, since all it does is wait for memory. Then a thread has a column
// of U.
#pragma once

#include "panel.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename V, int kClusterSize_>
class LuSolves : public LuPanels<V, kClusterSize_> {
 public:
  using Base = LuPanels<V, kClusterSize_>;
  using Base::Base, Base::kClusterSize, Base::kThreads, Base::kWarps, Base::kCount, Base::P,
      Base::B;

  // The exchanges of panel k in the columns [first, last).
  TORCHDET_DEVICE void exchange(int k, int first, int last) {
    constexpr int kStep = kWarps * kClusterSize;
    const int t = Base::thread(), warp = t / kWarpSize, lane = t % kWarpSize;
    for_groups(first + rank_ * kWarps + warp, last, kStep, [&](int j, int count) {
      exchange_rows(k, j, kStep, count, lane,
                    [&](int c, int s, V x) { Base::column(j + c * kStep)[k + s] = x; });
    });
  }

  // In the columns [first, last): the exchanges of the panels with the columns [k, first), then
  // L11 U12 = A12.
  TORCHDET_DEVICE void solve(int k, int first, int last) {
    const int share = (last - first + kClusterSize - 1) / kClusterSize;
    const int begin = first + rank_ * share, end = minimum(begin + share, last);
    TORCHDET_ROLL
    for (int j = begin; j < end; j += kLuSolveColumns) {
      solve_columns(k, first - k, j, minimum(kLuSolveColumns, end - j));
    }
  }

  // What is left when all is factored: the pivots, as LAPACK has them, and the exchanges of later
  // blocks in the columns of L. Those of one block are put together, from the last block to the
  // first, and done at once.
  TORCHDET_DEVICE void finish(int32_t* pivots) {
    uint16_t* const later = Base::places();
    if (rank_ == 0) {  // which has a part in all panels
      for (int i = thread_index(); i < n_; i += kThreads) {
        pivots[i] = later[i] + 1;
      }
    }
    for (int i = thread_index(); i < n_; i += kThreads) {
      later[i] = static_cast<uint16_t>(i);
    }
    sync_block();
    TORCHDET_ROLL
    for (int end = (n_ - 1) / B * B; end > 0; end -= B) {
      if (end + P < n_) {
        put_before(end + P, later);
      }
      put_before(end, later);
      TORCHDET_ROLL
      for (int k = end - B; k < end; k += P) {
        constexpr int kShare = P / kClusterSize;
        move_rows(k + rank_ * kShare, kShare, end, later);
      }
    }
  }

 protected:
  using Base::n_, Base::rank_;

 private:
  static constexpr int kStride = LuLayout::kStagedStride;
  static constexpr int kTogether = 4;  // columns
  // Rows of U for which a thread solves at once: 64 bytes.
  static constexpr int kRows = P / 4;
  // Rows above them that are read before the first is waited for.
  static constexpr int kAtOnce = 4;
  static_assert(kRows % kAtOnce == 0);

  // body(j, count) for the columns first, first + step, ..: count of them, kTogether at the most.
  template <typename Body>
  TORCHDET_DEVICE static void for_groups(int first, int last, int step, Body body) {
    TORCHDET_ROLL
    for (int j = first; j < last; j += kTogether * step) {
      body(j, minimum(kTogether, (last - j + step - 1) / step));
    }
  }

  // By one warp, in the columns j, j + step, ..: rows that leave the places of U take those of the
  // rows that come, which store(c, s, x) puts to row k + s.
  template <typename Store>
  TORCHDET_DEVICE void exchange_rows(int k, int j, int step, int count, int lane, Store store) {
    constexpr int kEach = (P + kWarpSize - 1) / kWarpSize;
    const int steps = Base::steps_of_panel(k);
    V comes[kTogether][kEach], leaves[kTogether][kEach];
    // What is not there is read once more, so that no register waits for it from the start.
    TORCHDET_UNROLL
    for (int r = 0; r < kEach; ++r) {
      const int s = minimum(lane + r * kWarpSize, steps - 1);
      TORCHDET_UNROLL
      for (int c = 0; c < kTogether; ++c) {
        const V* const from = Base::column(j + minimum(c, count - 1) * step);
        comes[c][r] = from[Base::source(k + s)];
        leaves[c][r] = from[k + s];
      }
    }
    sync_warp();
    TORCHDET_UNROLL
    for (int r = 0; r < kEach; ++r) {
      const int s = lane + r * kWarpSize;
      TORCHDET_UNROLL
      for (int c = 0; c < kTogether; ++c) {
        if (s < steps && c < count) {
          store(c, s, comes[c][r]);
          const int to = Base::destination(k + s);
          if (to >= k + steps) {
            Base::column(j + c * step)[to] = leaves[c][r];
          }
        }
      }
    }
    sync_warp();
  }

  TORCHDET_DEVICE void solve_columns(int k, int count, int first, int columns) {
    V* const u = Base::first_piece();
    const int t = Base::thread(), warp = t / kWarpSize, lane = t % kWarpSize;
    sync_block();  // the columns before have been written
    for_groups(warp, columns, kWarps, [&](int c0, int together) {
      TORCHDET_ROLL
      for (int s0 = 0; s0 < count; s0 += P) {
        exchange_rows(k + s0, first + c0, kWarps, together, lane,
                      [&](int c, int s, V x) { u[(s0 + s) * kStride + c0 + c * kWarps] = x; });
      }
    });
    TORCHDET_ROLL
    for (int t0 = 0; t0 < count; t0 += P) {
      TORCHDET_ROLL
      for (int s0 = 0; s0 <= t0; s0 += P) {
        stage_multipliers(k + t0, k + s0);
        sync_block();
        if (t < columns) {
          eliminate(u + t, t0, s0);
        }
        sync_block();
      }
    }
    for (int c = warp; c < columns; c += kWarps) {
      V* const to = Base::column(first + c) + k;
      for (int s = lane; s < count; s += kWarpSize) {
        to[s] = u[s * kStride + c];
      }
    }
  }

  // Rows i, i + 1, .. of the columns j, j + 1, .. of L: a square of P x P numbers.
  TORCHDET_DEVICE void stage_multipliers(int i, int j) {
    constexpr int kWords = P / kCount, kColumns = kThreads / kWords;  // at once
    const int t = Base::thread();
    i += t % kWords * kCount;
    const V* from = Base::column(j + t / kWords) + i;
    Chunk<V> x[P / kColumns];
    TORCHDET_UNROLL
    for (int e = 0; e < P / kColumns; ++e) {
      x[e] = Base::load_rows(from, i);
      from += kColumns * n_;
    }
    TORCHDET_UNROLL
    for (int e = 0; e < P / kColumns; ++e) {
      x[e].store(Base::second_piece() + (t + e * kThreads) * kCount);
    }
  }

  // Rows t0, t0 + 1, .. of a column of U lose what the rows s0, s0 + 1, .. take from them: P rows
  // by P rows, those before them where t0 = s0.
  TORCHDET_DEVICE void eliminate(V* u, int t0, int s0) const {
    const V* const multipliers = Base::second_piece();
    TORCHDET_ROLL
    for (int r = 0; r < P; r += kRows) {
      V x[kRows];
      TORCHDET_UNROLL
      for (int i = 0; i < kRows; ++i) {
        x[i] = u[(t0 + r + i) * kStride];
      }
      TORCHDET_ROLL
      for (int s = 0; s < (t0 == s0 ? r : P); s += kAtOnce) {
        TORCHDET_UNROLL
        for (int e = 0; e < kAtOnce; ++e) {
          subtract<0>(u[(s0 + s + e) * kStride], multipliers + (s + e) * P + r, x);
        }
      }
      if (t0 == s0) {
        for_steps<0, kRows - 1, true>([&](auto step) {
          constexpr int s = decltype(step)::value;
          subtract<s + 1>(x[s], multipliers + (r + s) * P + r, x);
        });
      }
      TORCHDET_UNROLL
      for (int i = 0; i < kRows; ++i) {
        u[(t0 + r + i) * kStride] = x[i];
      }
    }
  }
  // x_i -= l_i u for i = kFirst, ..
  template <int kFirst>
  TORCHDET_DEVICE static void subtract(V u, const V* multipliers, V (&x)[kRows]) {
    TORCHDET_UNROLL
    for (int w = kFirst / kCount; w < kRows / kCount; ++w) {
      const Chunk<V> l = Chunk<V>::load(multipliers + w * kCount);
      TORCHDET_UNROLL
      for (int e = 0; e < kCount; ++e) {
        if (w * kCount + e >= kFirst) {
          x[w * kCount + e] = fnma(l.x[e], u, x[w * kCount + e]);
        }
      }
    }
  }

  // later[i]: where the exchanges of some panels bring row i. Now those of panel k come before.
  TORCHDET_DEVICE void put_before(int k, uint16_t* later) const {
    const int s = Base::thread(), steps = Base::steps_of_panel(k);
    int from = 0;
    uint16_t of_source = 0, of_row = 0;
    if (s < steps) {
      from = Base::source(k + s);
      of_source = later[k + s];
      of_row = later[Base::destination(k + s)];
    }
    sync_block();
    if (s < steps) {
      later[k + s] = of_row;
      if (from >= k + steps) {
        later[from] = of_source;
      }
    }
    sync_block();
  }

  // In `count` columns from j on: rows from `begin` on go to their places, by way of shared memory,
  // so that neighbouring threads read and write neighbouring numbers.
  TORCHDET_DEVICE void move_rows(int j, int count, int begin, const uint16_t* later) {
    constexpr int kAhead = P / kClusterSize < 8 ? P / kClusterSize : 8;
    V* const moved = Base::first_piece();
    const int thread = Base::thread();
    TORCHDET_ROLL
    for (int i = begin + thread; i < n_; i += kThreads) {
      TORCHDET_ROLL
      for (int c0 = 0; c0 < count; c0 += kAhead) {
        V x[kAhead];
        TORCHDET_UNROLL
        for (int c = 0; c < kAhead; ++c) {
          x[c] = Base::column(j + c0 + c)[i];
        }
        TORCHDET_UNROLL
        for (int c = 0; c < kAhead; ++c) {
          moved[(c0 + c) * n_ + later[i]] = x[c];
        }
      }
    }
    sync_block();
    TORCHDET_ROLL
    for (int i = begin + thread; i < n_; i += kThreads) {
      for (int c = 0; c < count; ++c) {
        Base::column(j + c)[i] = moved[c * n_ + i];
      }
    }
    sync_block();
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
