// The inverse of a matrix in the shared memory of a block, in the place of the matrix itself:
// blocked Gauss-Jordan elimination.
//
// Step k exchanges y_q for x_k in y = B x, q being the row of the pivot: row q then expresses x_k,
// column k the share of y_q. With q_k the row of step k, the last state A of the matrix has
//     (B^-1)_(k, q_j) = A_(q_k, j),   C(B)_(q_j, k) = det(B) A_(q_k, j).               (1)
//
// Steps are taken in panels of kPanel columns K. The pivot rows Q and columns K are L11 U11, and
// x = L11^-1 A_(Q, j) for every column j that is not in K. Then a row i that is not in Q has
// multipliers l_i = A_(i, K) U11^-1, and
//     A_ij <- A_ij - l_i x,   A_(i, K) <- -l_i L11^-1.                                 (2)
// A pivot row s of the panel has multipliers l_st = 0 for t <= s and those of steps t > s, and
//     A_sj <- r_s x_s - sum_t r_s l_st x_t,   r_s = 1 / u_ss,                          (3)
// which is (2) for a row that holds r_s x_s and has the multipliers r_s l_st. So one pass treats
// all rows alike, wherever they lie, and needs no list of rows. In rows that have not been chosen
// it does what an LU does, number by number: equal rows eliminate to exactly 0.
//
// A thread of a panel owns the same rows, one or some, for the whole of the elimination. The warps
// of the next panel bring its columns up to date themselves, and factor it while the others do the
// passes: two barriers for a panel, and one of its warps for each of its steps. A_(i, K) of (2)
// waits in their registers until nobody reads the multipliers, in whose place it belongs. n^3
// multiply-adds.
#pragma once

#include "../inverse_hvp.h"
#include "panel.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// kReplacesLast: the inverse is that of B', whose last pivot is s in place of S (inverse_hvp.h).
// Then the sweep writes s, S / s and the last pivots of E to the facts.
template <typename V, int kThreads, int kPanelWarps, int kLaneRows, bool kReplacesLast>
class BlockSweep : public BlockPanels<V, kThreads, kPanelWarps, kLaneRows, true> {
 public:
  using Base = BlockPanels<V, kThreads, kPanelWarps, kLaneRows, true>;
  using Base::P, Base::kWarps;
  using typename Base::Exchange;

  // largest: leading bits of the largest entry of B, in shared memory.
  TORCHDET_DEVICE BlockSweep(TeamMatrix<V> A, int* rows, Exchange& exchange, const int32_t* largest,
                             InverseFacts<V>* facts)
      : Base(A, rows, exchange), largest_entry_(largest), facts_(facts) {
    TORCHDET_UNROLL
    for (int r = 0; r < kLaneRows; ++r) {
      place_[r] = row(r) < n_ ? kWaiting : kAbsent;
      pivot_[r] = one<V>();
    }
  }

  // A and the list of rows as (1) has them, unless a pivot is zero.
  TORCHDET_DEVICE void run() {
    sync_block();  // the memory of the list and the exchange has had other uses
    if constexpr (kPanelWarps == kWarps) {
      take_turns();
    } else if (warp_ < kPanelWarps) {
      factor_panels();
    } else {
      apply_panels();
    }
    if constexpr (kReplacesLast) {
      TORCHDET_UNROLL
      for (int r = 0; r < kLaneRows; ++r) {
        const int before = n_ - 2 - place_[r];
        if (before == 0 || before == 1) {
          facts_->last_of_E[before] = component_size(pivot_[r]);
        }
      }
    }
  }

  // Whether no pivot is zero.
  TORCHDET_DEVICE bool is_regular() const { return is_regular_; }
  // The product of the pivots in the thread's rows.
  TORCHDET_DEVICE Scaled<V> pivots() const {
    Scaled<V> product = normalise(pivot_[0], IntegerOf<V>(0));
    TORCHDET_UNROLL
    for (int r = 1; r < kLaneRows; ++r) {
      product = product * pivot_[r];
    }
    return product;
  }
  // The largest leading bits in the thread's share of U.
  TORCHDET_DEVICE int32_t largest() const { return this->largest_; }

 private:
  using Base::a_, Base::stride_, Base::n_, Base::columns_, Base::rows_, Base::exchange_,
      Base::warp_, Base::kMask, Base::kCount;
  using typename Base::R;
  // The step whose pivot row a row is, of those that are none yet and those that are not there.
  static constexpr int kWaiting = -1, kAbsent = -2;
  static constexpr int kBothKinds = Base::kPanelBarrier + 1;  // a barrier
  static constexpr int kPanelThreads = kPanelWarps * kWarpSize;

  TORCHDET_DEVICE static int row(int r) { return thread_index() + r * kPanelThreads; }
  TORCHDET_DEVICE V* row_of(int r) const { return a_ + minimum(row(r), n_ - 1) * stride_; }

  // Of all threads, which the two kinds of warps reach at different places.
  TORCHDET_DEVICE static void sync_kinds() { sync_threads(kBothKinds, kThreads); }

  // The way of small blocks: all warps do a panel, and then its passes.
  TORCHDET_DEVICE void take_turns() {
    TORCHDET_ROLL
    for (int k = 0; k < n_; k += P) {
      V m[kLaneRows][P];
      factor_panel(k, m);
      sync_block();
      this->update(k, k + P, 0);
      sync_block();
      store_rows(k, m);
    }
    sync_block();
  }

  // What the warps of the panels do, and the others. Both meet twice for a panel: when the passes
  // for the panel before have read its multipliers, and when A_(i, K) is in their place.
  TORCHDET_DEVICE void factor_panels() {
    V old[kLaneRows][P];  // A_(i, K) of the panel before
    TORCHDET_ROLL
    for (int k = 0; k < n_ + P; k += P) {
      V m[kLaneRows][P];
      if (k < n_) {
        factor_panel(k, m);
      }
      sync_kinds();
      if (k > 0) {
        store_rows(k - P, old);
      }
      TORCHDET_UNROLL
      for (int r = 0; r < kLaneRows; ++r) {
        TORCHDET_UNROLL
        for (int c = 0; c < P; ++c) {
          old[r][c] = m[r][c];
        }
      }
      sync_kinds();
    }
  }
  TORCHDET_DEVICE void apply_panels() {
    TORCHDET_ROLL
    for (int k = 0; k < n_ + P; k += P) {
      if (k > 0) {
        this->update(k - P, k < n_ ? k + P : k, kPanelWarps);
      }
      sync_kinds();
      sync_kinds();
    }
  }

  // Columns k, k + 1, .. of the thread's rows.
  TORCHDET_DEVICE void load_rows(int k, V (&m)[kLaneRows][P]) const {
    TORCHDET_UNROLL
    for (int r = 0; r < kLaneRows; ++r) {
      this->load_row(row_of(r), k, m[r]);
    }
  }

  TORCHDET_DEVICE void store_rows(int k, const V (&m)[kLaneRows][P]) const {
    TORCHDET_UNROLL
    for (int r = 0; r < kLaneRows; ++r) {
      this->store_row(row_of(r), k, row(r) < n_, m[r]);
    }
  }

  TORCHDET_DEVICE void replace_last(V& u, PivotDivisor<V>& divisor) const {
    const IntegerOf<V> e = exponent_of_leading_bits<R>(*largest_entry_) + kAboveEntries;
    if (thread_index() == 0) {
      facts_->exponent = e;
      facts_->ratio = scale_pow2(u, -e);
    }
    u = one<V>() * exact_pow2<R>(e);
    Pivot<V, true> pivot(u);
    pivot.refine();
    divisor = pivot;
  }

  // The steps of a panel in its own columns. The multipliers go to the columns of the panel, which
  // the passes read; m: A_(i, K) of (2), which takes their place afterwards.
  TORCHDET_DEVICE void factor_panel(int k, V (&m)[kLaneRows][P]) {
    const int left = n_ - k;
    auto& factors = exchange_.factors[k / P % 2];
    V l[kLaneRows][P];
    if (kPanelWarps < kWarps && k > 0) {
      advance(k - P, m);
    } else {
      load_rows(k, m);
    }
    TORCHDET_UNROLL
    for (int r = 0; r < kLaneRows; ++r) {
      TORCHDET_UNROLL
      for (int c = 0; c < P; ++c) {
        m[r][c] = c < left ? m[r][c] : zero<V>();
        l[r][c] = zero<V>();
      }
    }
    // Steps beyond the end of the matrix, within its last word, find no row to choose and a column
    // of zeros: all their multipliers are 0.
    for_steps<0, P / kCount, true>([&](auto word) {
      constexpr int first = decltype(word)::value * kCount;
      if (first < left) {
        for_steps<first, first + kCount, true>([&](auto step) {
          constexpr int t = decltype(step)::value;
          int32_t keys[kLaneRows];
          TORCHDET_UNROLL
          for (int r = 0; r < kLaneRows; ++r) {
            keys[r] = place_[r] == kWaiting ? place_key<kMask>(pivot_size(m[r][t]), row(r))
                                            : this->key_of_none();
          }
          V u[P];
          PivotDivisor<V> divisor;
          const int q = this->template choose<0>(keys, m, t, kPanelThreads, u, divisor);
          if constexpr (kReplacesLast) {
            if (k + t == n_ - 1) {
              replace_last(u[t], divisor);
            }
          }
          is_regular_ = is_regular_ && (t >= left || component_size(u[t]) != R(0));
          TORCHDET_UNROLL
          for (int r = 0; r < kLaneRows; ++r) {
            const bool is_waiting = place_[r] == kWaiting, is_pivot = is_waiting && row(r) == q;
            this->is_odd_ = this->is_odd_ != (is_waiting && row(r) < q);
            if (is_pivot) {
              place_[r] = k + t;
              pivot_[r] = u[t];
              rows_[k + t] = row(r);
              TORCHDET_UNROLL
              for (int c = t; c < P; ++c) {
                this->largest_ = maximum(this->largest_, leading_bits(u[c]));
              }
              V x[P] = {};
              TORCHDET_UNROLL
              for (int c = 0; c < t; ++c) {
                x[c] = l[r][c];
              }
              x[t] = divisor.quotient(one<V>());
              TORCHDET_UNROLL
              for (int w = 0; w <= t / kCount; ++w) {
                this->store_word(factors[t] + w * kCount, w, x);
              }
            }
            l[r][t] = select(is_pivot, zero<V>(), divisor.quotient(m[r][t]));
            TORCHDET_UNROLL
            for (int c = 0; c < P; ++c) {
              if (c != t) {
                m[r][c] = fnma(l[r][t], u[c], m[r][c]);
              }
            }
            m[r][t] = select(is_pivot, one<V>(), -l[r][t]);
          }
        });
      }
    });
    TORCHDET_UNROLL
    for (int r = 0; r < kLaneRows; ++r) {
      const int own = place_[r] - k;
      if (own >= 0) {
        const V reciprocal = factors[own][own];  // which this thread has written
        TORCHDET_UNROLL
        for (int t = 0; t < P; ++t) {
          l[r][t] = t > own ? l[r][t] * reciprocal : zero<V>();
          m[r][t] = m[r][t] * reciprocal;
        }
      }
      this->store_row(row_of(r), k, row(r) < n_, l[r]);
    }
  }

  // What panel k does to the columns m of the next one, in the thread's rows: update() of panel.h,
  // of which the other warps do the rest.
  TORCHDET_DEVICE void advance(int k, V (&m)[kLaneRows][P]) {
    const int j = k + P + thread_index();
    int pivot_row[P];
    this->find_pivot_rows(k, pivot_row);
    if (thread_index() < P && j < words_of<V>(columns_) * kCount) {
      V x[P];
      this->solve(k, pivot_row, pivot_row, j, x);
      this->note_size(j, x, P, true);
    }
    this->sync_panel(kPanelThreads);
    load_rows(k + P, m);
    TORCHDET_UNROLL
    for (int r = 0; r < kLaneRows; ++r) {
      const int own = place_[r] - k;
      if (own >= 0) {
        const V reciprocal = exchange_.factors[k / P % 2][own][own];
        TORCHDET_UNROLL
        for (int c = 0; c < P; ++c) {
          m[r][c] = m[r][c] * reciprocal;
        }
      }
    }
    TORCHDET_UNROLL
    for (int w = 0; w < Base::kPanelWords; ++w) {
      Chunk<V> l[kLaneRows];
      TORCHDET_UNROLL
      for (int r = 0; r < kLaneRows; ++r) {
        l[r] = load_shared<Chunk<V>>(row_of(r) + k + w * kCount);
      }
      TORCHDET_UNROLL
      for (int e = 0; e < kCount; ++e) {
        V x[P];
        this->load_row(a_ + pivot_row[w * kCount + e], k + P, x);
        TORCHDET_UNROLL
        for (int r = 0; r < kLaneRows; ++r) {
          TORCHDET_UNROLL
          for (int c = 0; c < P; ++c) {
            m[r][c] = fnma(l[r].x[e], x[c], m[r][c]);
          }
        }
      }
    }
  }

  const int32_t* const largest_entry_;
  InverseFacts<V>* const facts_;
  int place_[kLaneRows];
  bool is_regular_ = true;
  V pivot_[kLaneRows];
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
