// LU with partial pivoting of a matrix in the shared memory of a block.
//
// P B = L U by panels of kPanel columns, right-looking (panel.h). No row moves: a list has the rows
// in pivoted order, and the threads of a panel hold those of the list that are left, with the warps
// that this takes. Each of its steps has a barrier of these warps.
//
// Pivots come one after the other, each some 200 clocks behind the last, and the passes over the
// columns outside a panel need none of the next panel's pivots. So where enough warps are left for
// the passes, those of the next panel bring its columns up to date themselves, and factor it
// meanwhile: one barrier of the block for a panel. Otherwise all warps share the passes, with one
// barrier more.
#pragma once

#include "panel.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename V, int kThreads, int kPanelWarps>
class BlockFactors : public BlockPanels<V, kThreads, kPanelWarps, false> {
 public:
  using Base = BlockPanels<V, kThreads, kPanelWarps, false>;
  using Base::P, Base::kCount;
  using typename Base::Exchange;

  // rows, next_rows: room for a list each.
  TORCHDET_DEVICE BlockFactors(TeamMatrix<V> A, int* rows, int* next_rows, Exchange& exchange)
      : Base(A, rows, exchange), next_rows_(next_rows) {}

  // The thread's share of det(B), of which the product counts, without the sign.
  TORCHDET_DEVICE Scaled<V> factor() {
    sync_block();  // the memory of the lists and the exchange has had other uses
    for (int i = thread_index(); i < n_; i += kThreads) {
      rows_[i] = i * stride_;
    }
    TORCHDET_ROLL
    for (int k = 0; k < n_; k += P) {
      // The warps of panel k, and whether they go ahead of the passes for the panel before.
      const int warps = (n_ - k + kWarpSize - 1) / kWarpSize, others = Base::kWarps - warps;
      const bool is_ahead = k > 0 && 3 * others >= 2 * warps;
      const bool has_rows = warp_ < warps;
      this->propose_nothing(warps);
      if (k > 0 && !(is_ahead && has_rows)) {
        this->update(k - P, is_ahead ? k + P : k, is_ahead ? warps : 0);
      }
      if (!is_ahead) {
        sync_block();
      }
      if (has_rows) {
        factor_panel(k, warps * kWarpSize, is_ahead);
      }
      sync_block();
      int* const rows = rows_;
      rows_ = next_rows_;
      next_rows_ = rows;
    }
    // Each panel has left its pivots on the diagonal, their rows in one list or the other.
    Scaled<V> determinant = scaled_one<V>();
    for (int i = thread_index(); i < n_; i += kThreads) {
      const bool is_last_list = ((n_ - 1) / P - i / P) % 2 == 0;
      const int row = (is_last_list ? rows_ : next_rows_)[i];
      determinant = determinant * a_[row + i];
    }
    return determinant;
  }

 private:
  using Base::a_, Base::stride_, Base::n_, Base::rows_, Base::warp_, Base::kMask;

  // The panel of columns k, k + 1, .., by `threads` threads: thread t holds row k + t of the list.
  // The next list has first the pivot rows, then the others as they were.
  TORCHDET_DEVICE void factor_panel(int k, int threads, bool is_ahead) {
    const int own = thread_index(), left = n_ - k;
    const bool is_present = own < left;
    const int offset = rows_[is_present ? k + own : k];
    V* const row = a_ + offset;
    V m[P];
    this->load_row(row, k, m);
    if (is_ahead) {
      advance(k - P, row, threads, m);
    }
    constexpr int kWaiting = -1;
    int place = is_present ? kWaiting : 0;  // the step whose pivot the row has
    int passed = 0;  // how many rows from behind it have been chosen while it waited
    for_steps<0, P, true>([&](auto step) {
      constexpr int t = decltype(step)::value;
      if (t < left) {
        const int32_t key =
            place == kWaiting ? pivot_key<kMask>(pivot_size(m[t]), own) : this->key_of_none();
        V u[P];
        PivotDivisor<V> divisor;
        const int q = this->template choose<t>(key, m, t, threads, u, divisor);
        place = own == q ? t : place;
        const bool is_waiting = place == kWaiting;
        passed += is_waiting && own < q ? 1 : 0;
        const V l = divisor.quotient(m[t]);
        m[t] = select(is_waiting, l, m[t]);
        const V factor = select(is_waiting, l, zero<V>());
        TORCHDET_UNROLL
        for (int c = t + 1; c < P; ++c) {
          m[c] = fnma(factor, u[c], m[c]);
        }
      }
    });
    this->is_odd_ = this->is_odd_ != (passed % 2 != 0);
    if (is_present) {
      next_rows_[k + (place == kWaiting ? own + passed : place)] = offset;
    }
    this->store_row(row, k, is_present, m);
  }

  // What panel k takes from the columns m of the next one, in the thread's row.
  TORCHDET_DEVICE void advance(int k, const V* row, int threads, V (&m)[P]) {
    int pivot_row[P];
    this->find_pivot_rows(k, pivot_row);
    const int j = k + P + thread_index(), end = words_of<V>(n_) * kCount;
    if (thread_index() < P && j < end) {
      V x[P];
      this->solve(k, pivot_row, j, x);
    }
    V l[P];
    this->load_row(row, k, l);
    sync_threads(Base::kPanelBarrier, threads);
    TORCHDET_UNROLL
    for (int t = 0; t < P; ++t) {
      V x[P];
      this->load_row(a_ + pivot_row[t], k + P, x);
      TORCHDET_UNROLL
      for (int c = 0; c < P; ++c) {
        m[c] = fnma(l[t], x[c], m[c]);
      }
    }
  }

  int* next_rows_;
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
