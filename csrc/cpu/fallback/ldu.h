// P B Q = L D U with unit triangular L, U, of one matrix whose rows lie in packs, with complete
// pivoting (math/ldu.h), which passes through the whole matrix at every step: leaves L below the
// diagonal, D on it and U above.
#pragma once

#include "../matrix/triangular.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename P>
struct LduPivots {
  int64_t* row_index;  // in pivoted order
  int64_t* column_index;
  ScalarOf<P> sign;  // of the permutations

  void start(int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      row_index[i] = column_index[i] = i;
    }
    sign = 1;
  }
};

// Looks for the largest entry right of column k and below row k, which becomes the next pivot: its
// place, or the next one on the diagonal if all are zero. kUpdate: first subtracts l times row k
// from those rows, l_i being number i of `l`. The packs of columns come one after the other, so
// that what is known of one stays in registers.
template <bool kUpdate, typename P>
void look_beyond(const RowMatrix<P>& A, int64_t k, const P* l, int64_t& row, int64_t& column) {
  using I = IntegerOf<P>;
  using Integer = typename Format<ScalarOf<P>>::Integer;
  constexpr int W = LaneTraits<P>::kWidth;
  LargestEntry<P> block = {I(0), I(0)};  // the place is the pack of columns
  I rows = I(0);
  for (int64_t p = (k + 1) / W; p < A.packs; ++p) {
    const auto right = greater(lane_numbers<P>(), I(Integer(k - p * W)));
    const I open = select(right, I(-1), I(0));
    const P u = kUpdate ? select(right, A.row(k)[p], zero<P>()) : zero<P>();
    LargestEntry<P> entry = {I(0), I(0)};
    for (int64_t i = k + 1; i < A.n; ++i) {
      if (kUpdate) {
        A.row(i)[p] = fnma(broadcast<P>(get_number(l, i)), u, A.row(i)[p]);
      }
      entry.look(A.row(i)[p], open, i);
    }
    const auto larger = greater(entry.largest, block.largest);
    block.largest = select(larger, entry.largest, block.largest);
    block.place = select(larger, I(Integer(p)), block.place);
    rows = select(larger, entry.place, rows);
  }
  const int lane = block.lane();
  row = lane < 0 ? k + 1 : rows[lane];
  column = lane < 0 ? k + 1 : block.place[lane] * W + lane;
}

// l: space for n numbers in packs.
template <typename P>
void factor_ldu_complete(const RowMatrix<P>& A, LduPivots<P>& pivots, P* l) {
  using I = IntegerOf<P>;
  using Integer = typename Format<ScalarOf<P>>::Integer;
  constexpr int W = LaneTraits<P>::kWidth;
  const int64_t n = A.n;
  pivots.start(n);
  int64_t row = 0, column = 0;
  look_beyond<false>(A, -1, l, row, column);
  for (int64_t k = 0; k < n; ++k) {
    A.swap_rows(row, k);
    std::swap(pivots.row_index[row], pivots.row_index[k]);
    for (int64_t i = 0; i < n && column != k; ++i) {
      const NumberOf<P> x = A.get(i, k);
      A.set(i, k, A.get(i, column));
      A.set(i, column, x);
    }
    std::swap(pivots.column_index[column], pivots.column_index[k]);
    pivots.sign = (row != k) != (column != k) ? -pivots.sign : pivots.sign;
    if (k + 1 == n) {
      break;
    }
    const PivotQuotient<P> quotient(broadcast<P>(A.get(k, k)));
    for (int64_t i = k + 1; i < n; ++i) {
      set_number(l, i, A.get(i, k));
    }
    for (int64_t p = (k + 1) / W; p < A.packs; ++p) {
      l[p] = quotient(l[p]);
    }
    look_beyond<true>(A, k, l, row, column);
    for (int64_t i = k + 1; i < n; ++i) {
      A.set(i, k, get_number(l, i));
    }
    for (int64_t p = k / W; p < A.packs; ++p) {
      const auto right = greater(lane_numbers<P>(), I(Integer(k - p * W)));
      A.row(k)[p] = select(right, quotient(A.row(k)[p]), A.row(k)[p]);
    }
  }
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
