// LU with partial pivoting of a matrix in the shared memory of a block.
//
// P B = L U by panels of kPanel columns, right-looking (panel.h). No row moves: a list has the rows
// in pivoted order, and the threads of a panel hold those of the list that are left.
//
// Pivots come one after the other, each some 250 clocks behind the last, and the passes over the
// columns outside a panel need none of the next panel's pivots. So the warps of a panel bring its
// columns up to date themselves, and factor it while the others do the passes for the panel before:
// one barrier of the block for a panel. A panel has few warps, with some rows in a thread: what a
// step does beside its multiply-adds is done by each warp.
//
// Where a block has no room for the whole matrix, its last kLate columns come late: when as many
// pivots have been found. These pivots' rows are finished then, and their multipliers are of no use
// once the late columns are up to date, which take their place. What is left is a square matrix
// whose columns are in another order: kLate is even, and the sign of that is +.
#pragma once

#include "panel.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename V, int kThreads, int kPanelWarps, int kLaneRows, int kLate = 0>
class BlockFactors : public BlockPanels<V, kThreads, kPanelWarps, kLaneRows, false> {
 public:
  using Base = BlockPanels<V, kThreads, kPanelWarps, kLaneRows, false>;
  using Base::P, Base::kCount;
  using typename Base::Exchange;

  // rows, next_rows: room for a list each; late_pivots: for the pivots' rows of the late columns.
  TORCHDET_DEVICE BlockFactors(TeamMatrix<V> A, int* rows, int* next_rows, V* late_pivots,
                               Exchange& exchange)
      : Base(A, rows, exchange), next_rows_(next_rows), late_pivots_(late_pivots) {
    columns_ -= kLate;
  }

  // The thread's share of det(B), of which the product counts, without the sign. load_late(i, x):
  // row i of the late columns.
  template <typename LoadLate>
  TORCHDET_DEVICE Scaled<V> factor(LoadLate load_late) {
    sync_block();  // the memory of the lists and the exchange has had other uses
    for (int i = thread_index(); i < n_; i += kThreads) {
      rows_[i] = i * stride_;
    }
    Scaled<V> determinant = scaled_one<V>();
    TORCHDET_ROLL
    for (int k = 0; k < n_; k += P) {
      // The warps of panel k, and whether they go ahead of the passes for the panel before.
      const int warps = minimum((n_ - k + kWarpSize - 1) / kWarpSize, kPanelWarps);
      const bool takes_late = kLate > 0 && k == kLate && columns_ < n_;
      const bool is_ahead = k > 0 && !takes_late;
      const bool has_rows = warp_ < warps;
      this->propose_nothing(warps);
      if (k > 0 && !(is_ahead && has_rows)) {
        this->update(k - P, is_ahead ? k + P : k, is_ahead ? warps : 0);
      }
      if (!is_ahead) {
        sync_block();
      }
      if constexpr (kLate > 0) {
        if (takes_late) {
          take_late_columns(load_late);
          determinant = multiply_by_pivots(determinant, kLate);
          rows_ += kLate;
          next_rows_ += kLate;
          n_ = columns_;
          k = 0;
        }
      }
      if (has_rows) {
        factor_panel<kLaneRows>(k, warps * kWarpSize, is_ahead);
      }
      sync_block();
      int* const rows = rows_;
      rows_ = next_rows_;
      next_rows_ = rows;
    }
    return multiply_by_pivots(determinant, n_);
  }

 private:
  using Base::a_, Base::stride_, Base::n_, Base::columns_, Base::rows_, Base::warp_, Base::kMask;
  static_assert(kLate % P == 0);

  // Where the row of the pivot in column i begins, when all panels to column n have been factored:
  // pivots are on the diagonal, their rows in one list or the other.
  TORCHDET_DEVICE int row_of_pivot(int i, int n) const {
    const bool is_last_list = ((n - 1) / P - i / P) % 2 == 0;
    return (is_last_list ? rows_ : next_rows_)[i];
  }
  // The product takes the thread's share of these pivots.
  TORCHDET_DEVICE Scaled<V> multiply_by_pivots(Scaled<V> product, int n) const {
    for (int i = thread_index(); i < n; i += kThreads) {
      product = product * a_[row_of_pivot(i, n) + i];
    }
    return product;
  }

  // Brings the late columns up to date, a thread for each row in pivoted order. Those of pivots
  // leave theirs to all when the turn of their panel has come. Threads without a row have a copy of
  // a pivot's.
  template <typename LoadLate>
  TORCHDET_DEVICE void take_late_columns(LoadLate load_late) {
    const int own = thread_index();
    const bool is_left = own >= kLate && own < n_;
    const int offset = is_left ? rows_[own] : row_of_pivot(own % kLate, kLate);
    V m[kLate];
    load_late(offset / stride_, m);
    TORCHDET_ROLL
    for (int k = 0; k < kLate; k += P) {
      V* const pivots = late_pivots_ + k * kLate;
      if (own >= k && own < k + P) {
        TORCHDET_UNROLL
        for (int w = 0; w < kLate / kCount; ++w) {
          Base::store_word(late_pivots_ + own * kLate + w * kCount, w, m);
        }
      }
      sync_block();
      if (own < kLate) {
        int pivot_row[P], x_row[P];
        TORCHDET_UNROLL
        for (int t = 0; t < P; ++t) {
          pivot_row[t] = row_of_pivot(k + t, kLate);
          x_row[t] = static_cast<int>(pivots - a_) + t * kLate;
        }
        V x[P];
        this->solve(k, pivot_row, x_row, own, x);
      }
      sync_block();
      if (warp_ * kWarpSize < n_) {
        V l[P];
        this->load_row(a_ + offset, k, l);
        TORCHDET_UNROLL
        for (int t = 0; t < P; ++t) {
          TORCHDET_UNROLL
          for (int w = 0; w < kLate / kCount; ++w) {
            const auto x = load_shared<Chunk<V>>(pivots + t * kLate + w * kCount);
            TORCHDET_UNROLL
            for (int e = 0; e < kCount; ++e) {
              m[w * kCount + e] = fnma(l[t], x.x[e], m[w * kCount + e]);
            }
          }
        }
      }
    }
    if (is_left) {
      TORCHDET_UNROLL
      for (int w = 0; w < kLate / kCount; ++w) {
        Base::store_word(a_ + offset + w * kCount, w, m);
      }
    }
    sync_block();
  }

  // The panel of columns k, k + 1, .., by `threads` threads, each of which holds at most kRows
  // rows: thread t holds rows k + t, k + t + threads, .. of the list. The next list has first the
  // pivot rows, then the others as they were.
  //
  // There are two copies of the code, one of them for half the rows. One for each number of rows
  // would be two to three times as much code, which every warp of a panel has to fetch.
  template <int kRows>
  TORCHDET_DEVICE void factor_panel(int k, int threads, bool is_ahead) {
    const int left = n_ - k;
    constexpr int kHalf = (kRows + 1) / 2;
    if constexpr (kRows == kLaneRows && kHalf < kRows) {
      if (left <= kHalf * threads) {
        factor_panel<kHalf>(k, threads, is_ahead);
        return;
      }
    }
    constexpr int kWaiting = -1;
    int own[kRows], offset[kRows];
    int place[kRows];   // the step whose pivot the row has
    int passed[kRows];  // how many rows from behind it have been chosen while it waited
    V m[kRows][P];
    TORCHDET_UNROLL
    for (int r = 0; r < kRows; ++r) {
      own[r] = thread_index() + r * threads;
      offset[r] = rows_[own[r] < left ? k + own[r] : k];
      this->load_row(a_ + offset[r], k, m[r]);
      place[r] = own[r] < left ? kWaiting : 0;
      passed[r] = 0;
    }
    if (is_ahead) {
      advance(k - P, offset, threads, m);
    }
    // Steps beyond the end of the matrix, within its last word, find no row to choose. The key of
    // none names a row that is not there, and only columns behind the last one change.
    for_steps<0, P / kCount, true>([&](auto word) {
      constexpr int first = decltype(word)::value * kCount;
      if (first < left) {
        for_steps<first, first + kCount, true>([&](auto step) {
          constexpr int t = decltype(step)::value;
          int32_t keys[kRows];
          TORCHDET_UNROLL
          for (int r = 0; r < kRows; ++r) {
            keys[r] = place[r] == kWaiting ? place_key<kMask>(pivot_size(m[r][t]), own[r])
                                           : this->key_of_none();
          }
          V u[P];
          PivotDivisor<V> divisor;
          const int q = this->template choose<t>(keys, m, t, threads, u, divisor);
          TORCHDET_UNROLL
          for (int r = 0; r < kRows; ++r) {
            place[r] = own[r] == q ? t : place[r];
            const bool is_waiting = place[r] == kWaiting;
            passed[r] += is_waiting && own[r] < q ? 1 : 0;
            const V l = divisor.quotient(m[r][t]);
            m[r][t] = select(is_waiting, l, m[r][t]);
            const V factor = select(is_waiting, l, zero<V>());
            TORCHDET_UNROLL
            for (int c = t + 1; c < P; ++c) {
              m[r][c] = fnma(factor, u[c], m[r][c]);
            }
          }
        });
      }
    });
    TORCHDET_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const bool is_present = own[r] < left;
      this->is_odd_ = this->is_odd_ != (passed[r] % 2 != 0);
      if (is_present) {
        next_rows_[k + (place[r] == kWaiting ? own[r] + passed[r] : place[r])] = offset[r];
      }
      this->store_row(a_ + offset[r], k, is_present, m[r]);
    }
  }

  // What panel k takes from the columns m of the next one, in the thread's rows.
  template <int kRows>
  TORCHDET_DEVICE void advance(int k, const int (&offset)[kRows], int threads, V (&m)[kRows][P]) {
    const int j = k + P + thread_index(), end = words_of<V>(columns_) * kCount;
    if (thread_index() < P && j < end) {
      int pivot_row[P];
      this->find_pivot_rows(k, pivot_row);
      V x[P];
      this->solve(k, pivot_row, pivot_row, j, x);
    }
    this->sync_panel(threads);
    TORCHDET_UNROLL
    for (int w = 0; w < Base::kPanelWords; ++w) {
      Chunk<V> l[kRows];
      TORCHDET_UNROLL
      for (int r = 0; r < kRows; ++r) {
        l[r] = load_shared<Chunk<V>>(a_ + offset[r] + k + w * kCount);
      }
      TORCHDET_UNROLL
      for (int e = 0; e < kCount; ++e) {
        V x[P];
        this->load_row(a_ + rows_[k + w * kCount + e], k + P, x);
        TORCHDET_UNROLL
        for (int r = 0; r < kRows; ++r) {
          TORCHDET_UNROLL
          for (int c = 0; c < P; ++c) {
            m[r][c] = fnma(l[r].x[e], x[c], m[r][c]);
          }
        }
      }
    }
  }

  int* next_rows_;
  V* const late_pivots_;
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
