// LU with partial pivoting of a matrix in the shared memory of a block.
//
// P B = L U by panels of kPanel columns, right-looking (panel.h). No row moves: row_index lists the
// rows in pivoted order, and the threads of a panel hold those of the list that are left, with the
// warps that this takes. Two barriers of the block for a panel, and for each of its steps one of
// the panel's warps.
#pragma once

#include "panel.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename V, int kThreads>
class BlockFactors : public BlockPanels<V, kThreads> {
 public:
  using Base = BlockPanels<V, kThreads>;
  using Base::Base, Base::P;

  // The thread's share of det(B), of which the product counts, without the sign.
  TORCHDET_DEVICE Scaled<V> factor() {
    if (thread_index() >= threads_of(0)) {
      this->propose_nothing();
    }
    sync_block();
    TORCHDET_ROLL
    for (int k = 0; k < n_; k += P) {
      if (thread_index() < threads_of(k)) {
        factor_panel(k);
      }
      sync_block();
      if (k + P < n_) {
        this->template update<false>(k);
        if (thread_index() >= threads_of(k + P)) {
          this->propose_nothing();
        }
        sync_block();
      }
    }
    return determinant_;
  }

 private:
  using Base::a_, Base::stride_, Base::n_, Base::row_index_, Base::exchange_, Base::kMask;

  // Whole warps.
  TORCHDET_DEVICE int threads_of(int k) const {
    return (n_ - k + kWarpSize - 1) / kWarpSize * kWarpSize;
  }

  // The panel of columns k, k + 1, ..: thread t holds row k + t of the list. The list is put in
  // order: first the pivot rows, then the others as they were.
  TORCHDET_DEVICE void factor_panel(int k) {
    const int own = thread_index(), left = n_ - k;
    const bool is_present = own < left;
    const int index = is_present ? row_index_[k + own] : 0;
    V* const row = a_ + index * stride_;
    V m[P];
    this->load_row(row, k, is_present, m);
    bool is_waiting = is_present;
    V own_pivot = one<V>();
    int to = own;  // the row's place in the list that is left
    int chosen[P];
    for_steps<0, P, true>([&](auto step) {
      constexpr int t = decltype(step)::value;
      chosen[t] = -1;
      if (t < left) {
        const int32_t key =
            is_waiting ? pivot_key<kMask>(pivot_size(m[t]), own) : this->key_of_none();
        V u[P];
        const int q = this->choose(key, m, t, threads_of(k), u);
        chosen[t] = q;
        this->is_odd_ = this->is_odd_ != (is_waiting && own < q);
        Pivot<V, true> pivot(u[t]);
        pivot.refine();
        if (own == q) {
          is_waiting = false;
          to = t;
          own_pivot = u[t];
          this->store_words(exchange_.factors[t], m);
        }
        const V l = select(is_waiting, pivot.quotient(m[t]), zero<V>());
        m[t] = select(is_waiting, l, m[t]);
        TORCHDET_UNROLL
        for (int c = 0; c < P; ++c) {
          if (c > t) {
            m[c] = fnma(l, u[c], m[c]);
          }
        }
      }
    });
    if (is_waiting) {
      TORCHDET_UNROLL
      for (int t = 0; t < P; ++t) {
        to += chosen[t] > own ? 1 : 0;
      }
    } else {  // only now: the other threads waited for the pivot
      determinant_ = determinant_ * own_pivot;
    }
    if (is_present) {
      row_index_[k + to] = index;
    }
    this->store_row(row, k, is_waiting, m);
  }

  Scaled<V> determinant_ = scaled_one<V>();
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
