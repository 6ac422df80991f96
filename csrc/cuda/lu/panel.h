// The panels of the LU: P columns, all rows that are left, factored by one thread for each row.
//
// The threads are those of as few blocks of the cluster as have enough of them. In a step every
// warp shows its best row to its block, before it is known whose is the best of all; where there
// are several blocks, each sends its best one to all others, and they meet. Behind the meeting all
// threads compare what their block has been shown or sent, and read the winner. So a step costs one
// barrier of the block, and one of the cluster where more than kThreads rows are left.
//
// No row moves before the last step: a thread keeps the place to which the exchanges have brought
// its row. In every step the columns move to the left by one register, so that steps can be turns
// of a loop; what leaves the registers, a number of L or, in finished rows, of U, is final.
#pragma once

#include "layout.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename V, int kClusterSize_>
class LuPanels : public LuMatrix<V, kClusterSize_> {
 public:
  using Base = LuMatrix<V, kClusterSize_>;
  using R = RealOf<V>;
  using Base::Base, Base::kClusterSize, Base::kThreads, Base::kWarps, Base::kCount, Base::P;

  // Factors the panel that begins with column k. Its rows are exchanged, the others' are not; what
  // it has exchanged is known to all blocks behind the next barrier of the cluster.
  TORCHDET_DEVICE void factor(int k) {
    const int steps = Base::steps_of_panel(k), blocks = (n_ - k + kThreads - 1) / kThreads;
    if (rank_ < blocks) {
      take_steps(k, steps, blocks);
    } else if (blocks > 1) {
      TORCHDET_ROLL
      for (int s = 0; s < steps; ++s) {
        sync_cluster();
      }
    }
  }

 protected:
  using Base::n_, Base::rank_;

 private:
  using Candidate = LuCandidate<V>;
  // What a thread has: its row of the panel from the current step on, and the place to which the
  // exchanges have brought it. In step s of panel k a row waits for its turn if its place is k + s
  // or behind; threads without a row have none.
  struct Row {
    V x[P];
    int place;
  };
  // Steps in which a row has the same number of registers.
  static constexpr int kPhase = 8;

  TORCHDET_DEVICE void take_steps(int k, int steps, int blocks) {
    const int t = Base::thread(), first = k + rank_ * kThreads + t;
    Row row;
    row.place = first < n_ ? first : -1;
    const V* from = Base::column(k) + minimum(first, n_ - 1);
    TORCHDET_UNROLL
    for (int j = 0; j < P; ++j) {
      row.x[j] = *from;
      from += j + 1 < steps ? n_ : 0;  // columns that are not there repeat the last one
    }
    for_steps<0, P / kPhase, true>([&](auto phase) {
      constexpr int kBegin = decltype(phase)::value * kPhase;
      TORCHDET_ROLL
      for (int s = kBegin; s < minimum(kBegin + kPhase, steps); ++s) {
        step<P - kBegin>(row, k, s, blocks);
      }
    });
    if (row.place < 0) {
      return;
    }
    TORCHDET_ROLL
    for (int s = 0; s < steps; ++s) {
      Base::column(k + s)[row.place] = Base::first_piece()[s * kThreads + t];
    }
    for (int r = 0; r < kClusterSize; ++r) {
      if (row.place < k + steps) {
        *map_shared(&Base::source(row.place), r) = static_cast<uint16_t>(first);
      }
      if (first < k + steps) {
        *map_shared(&Base::destination(first), r) = static_cast<uint16_t>(row.place);
      }
    }
  }

  template <int kWidth>
  TORCHDET_DEVICE void step(Row& row, int k, int s, int blocks) {
    const Candidate* const winner = find_pivot<kWidth>(row, k, s, blocks);
    const Chunk<V> begin = Chunk<V>::load(winner->row);
    const V pivot = begin.x[0];
    const int place = winner->place;
    const int t = Base::thread();
    if (t == 0) {
      Base::places()[k + s] = static_cast<uint16_t>(place);
    }
    V l = winner->divisor.quotient(row.x[0]);
    if constexpr (kIsComplex<V>) {  // whose quotients of equal numbers need not be exactly 1
      const bool is_equal = row.x[0].re == pivot.re && row.x[0].im == pivot.im;
      l = select(is_equal && pivot_size(pivot) != R(0), one<V>(), l);
    }
    // The row at place k + s and the pivot row change places.
    row.place = row.place == place ? k + s : row.place == k + s ? place : row.place;
    const bool is_waiting = row.place > k + s;
    Base::first_piece()[s * kThreads + t] = select(is_waiting, l, row.x[0]);
    l = select(is_waiting, l, zero<V>());
    TORCHDET_UNROLL
    for (int w = 0; w < kWidth / kCount; ++w) {
      if (w == P / kCount / 2) {
        sync_warp();  // the second half of a long row waits until there are registers for it
      }
      const Chunk<V> u = w == 0 ? begin : Chunk<V>::load(winner->row + w * kCount);
      TORCHDET_UNROLL
      for (int e = w == 0 ? 1 : 0; e < kCount; ++e) {
        const int j = w * kCount + e;
        row.x[j - 1] = fnma(l, u.x[e], row.x[j]);
      }
    }
    row.x[kWidth - 1] = zero<V>();
  }

  // The row of the next pivot, as those who are to read it have it in shared memory. Two places
  // take turns: one is read while the other is written.
  template <int kWidth>
  TORCHDET_DEVICE const Candidate* find_pivot(const Row& row, int k, int s, int blocks) {
    Candidate* const shown =
        reinterpret_cast<Candidate*>(Base::second_piece()) + s % 2 * 2 * kWarps;
    Candidate* const sent = shown + kWarps;
    const int t = Base::thread(), lane = t % kWarpSize, warp = t / kWarpSize;
    const bool is_waiting = row.place >= k + s;
    const int32_t own =
        is_waiting ? place_key<kLuPlaces>(pivot_size(row.x[0]), rank_ * kThreads + t) : kNoKey;
    Pivot<V, true> divisor(row.x[0]);
    const int32_t best = reduce_maximum_in_warp(own);
    divisor.refine();
    if (own == best && (is_waiting || lane == 0)) {
      Candidate& mine = shown[warp];
      TORCHDET_UNROLL
      for (int w = 0; w < kWidth / kCount; ++w) {
        Chunk<V> chunk;
        TORCHDET_UNROLL
        for (int e = 0; e < kCount; ++e) {
          chunk.x[e] = row.x[w * kCount + e];
        }
        chunk.store(mine.row + w * kCount);
      }
      mine.divisor = divisor;
      mine.key = best;
      mine.place = row.place;
    }
    sync_block();
    if (blocks == 1) {
      return shown + place_of_key<kLuPlaces>(best_of(shown, kWarps, lane)) / kWarpSize;
    }
    static_assert(sizeof(Candidate) <= kWarpSize * sizeof(Wide) && kWarps >= kClusterSize);
    if (warp < blocks) {
      const int32_t key = best_of(shown, kWarps, lane);
      const int w = key == kNoKey ? 0 : place_of_key<kLuPlaces>(key) % kThreads / kWarpSize;
      if (lane < static_cast<int>(sizeof(Candidate) / sizeof(Wide))) {
        const Wide* const from = reinterpret_cast<const Wide*>(shown + w) + lane;
        reinterpret_cast<Wide*>(map_shared(sent + rank_, warp))[lane] = *from;
      }
    }
    sync_cluster();
    return sent + place_of_key<kLuPlaces>(best_of(sent, blocks, lane)) / kThreads;
  }
  // In all lanes.
  TORCHDET_DEVICE static int32_t best_of(const Candidate* candidates, int count, int lane) {
    return reduce_maximum_in_warp(lane < count ? candidates[lane].key : kNoKey);
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
