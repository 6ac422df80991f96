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
// A thread owns a row for the whole of the elimination. n^3 multiply-adds; two barriers for a panel
// and one for each of its steps.
#pragma once

#include "panel.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename V, int kThreads>
class BlockSweep : public BlockPanels<V, kThreads, kThreads / kWarpSize, 1, true> {
 public:
  using Base = BlockPanels<V, kThreads, kThreads / kWarpSize, 1, true>;
  using Base::Base, Base::P;
  using typename Base::Exchange;

  // A and the list of rows as (1) has them, unless a pivot is zero.
  TORCHDET_DEVICE void run() {
    TORCHDET_ROLL
    for (int k = 0; k < n_ && is_regular_; k += P) {
      factor_panel(k);
      sync_block();
      this->update(k, k + P, 0);
      sync_block();
      this->store_row(row(), k, is_present(), panel_[0]);
    }
    sync_block();
  }

  // Whether no pivot is zero.
  TORCHDET_DEVICE bool is_regular() const { return is_regular_; }
  // The pivot in the thread's row; 1 where it has none.
  TORCHDET_DEVICE V pivot() const { return pivot_; }
  // The largest leading bits in the thread's share of U.
  TORCHDET_DEVICE int32_t largest() const { return this->largest_; }

 private:
  using Base::a_, Base::stride_, Base::n_, Base::rows_, Base::exchange_, Base::kMask;
  using typename Base::R;
  static constexpr int kWaiting = -1;

  TORCHDET_DEVICE V* row() const { return a_ + thread_index() * stride_; }
  TORCHDET_DEVICE bool is_present() const { return thread_index() < n_; }

  // The steps of a panel in its own columns. The multipliers go to the columns of the panel, which
  // the passes read; A_(i, K) of (2), which takes their place afterwards, waits in panel_.
  TORCHDET_DEVICE void factor_panel(int k) {
    const int own = thread_index(), left = n_ - k;
    V(&m)[P] = panel_[0];
    V l[P];
    this->load_row(a_ + minimum(own, n_ - 1) * stride_, k, m);
    TORCHDET_UNROLL
    for (int c = 0; c < P; ++c) {
      m[c] = c < left ? m[c] : zero<V>();
    }
    for_steps<0, P, true>([&](auto step) {
      constexpr int t = decltype(step)::value;
      l[t] = zero<V>();
      if (t < left) {
        const bool is_waiting = place_ == kWaiting && is_present();
        const int32_t key[] = {is_waiting ? place_key<kMask>(pivot_size(m[t]), own)
                                          : this->key_of_none()};
        V u[P];
        PivotDivisor<V> divisor;
        const int q = this->template choose<0>(key, panel_, t, kThreads, u, divisor);
        const bool is_row = own == q;
        is_regular_ = is_regular_ && component_size(u[t]) != R(0);
        this->is_odd_ = this->is_odd_ != (is_waiting && own < q);
        if (is_row) {
          place_ = k + t;
          pivot_ = u[t];
          rows_[k + t] = own;
          TORCHDET_UNROLL
          for (int c = 0; c < P; ++c) {
            this->largest_ = c < t ? this->largest_ : maximum(this->largest_, leading_bits(m[c]));
          }
          V factors[P] = {};
          TORCHDET_UNROLL
          for (int c = 0; c < t; ++c) {
            factors[c] = l[c];
          }
          factors[t] = divisor.quotient(one<V>());
          TORCHDET_UNROLL
          for (int w = 0; w <= t / Base::kCount; ++w) {
            this->store_word(exchange_.factors[t] + w * Base::kCount, w, factors);
          }
        }
        l[t] = select(is_row, zero<V>(), divisor.quotient(m[t]));
        TORCHDET_UNROLL
        for (int c = 0; c < P; ++c) {
          if (c != t) {
            m[c] = fnma(l[t], u[c], m[c]);
          }
        }
        m[t] = select(is_row, one<V>(), -l[t]);
      }
    });
    if (place_ >= k) {
      const V r = exchange_.factors[place_ - k][place_ - k];  // which this thread has written
      TORCHDET_UNROLL
      for (int t = 0; t < P; ++t) {
        l[t] = t > place_ - k ? l[t] * r : zero<V>();
        m[t] = m[t] * r;
      }
    }
    this->store_row(row(), k, is_present(), l);
  }

  int place_ = kWaiting;  // the step whose pivot row is the thread's
  bool is_regular_ = true;
  V pivot_ = one<V>();
  V panel_[1][P];
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
