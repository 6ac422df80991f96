// Factorisations of the class "blocked": equilibration, LU with partial pivoting (blocked), LDU
// with complete pivoting. The same formulas as math/equilibrate.h, math/lu.h and math/ldu.h, with
// the columns of one matrix in the lanes.
#pragma once

#include "../math/scaled.h"
#include "row_matrix.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// Per-row facts of a factored matrix; exponents are -r and -c of the equilibration, in pivoted
// order.
template <typename P>
struct Pivots {
  using Integer = typename Format<ScalarOf<P>>::Integer;
  int64_t* row_index;
  int64_t* column_index;
  Integer* row_exponent;
  Integer* column_exponent;
  Integer total;     // R
  bool finite;       // no NaN or infinity in the matrix
  ScalarOf<P> sign;  // of the permutations
};

template <typename P>
void equilibrate_rows(const RowMatrix<P>& A, Pivots<P>& pivots) {
  using I = IntegerOf<P>;
  using Integer = typename Pivots<P>::Integer;
  constexpr int W = LaneTraits<P>::kWidth;
  const int64_t n = A.n;
  const auto moved = [](Integer e) { return e < kZeroExponentBound ? Integer(0) : Integer(-e); };
  pivots.total = 0;
  pivots.finite = true;
  for (int64_t i = 0; i < n; ++i) {
    I e = I(kZeroExponent);
    for (int64_t p = 0; p < A.packs; ++p) {
      e = maximum(e, entry_exponent(A.row(i)[p]));
    }
    const Integer largest = largest_lane(e);
    pivots.finite = pivots.finite && largest <= Format<ScalarOf<P>>::kMaxExponent;
    pivots.row_exponent[i] = moved(largest);
    pivots.total -= pivots.row_exponent[i];
  }
  for (int64_t p = 0; p < A.packs; ++p) {
    I e = I(kZeroExponent);
    for (int64_t i = 0; i < n; ++i) {
      e = maximum(e, entry_exponent(A.row(i)[p]) + I(pivots.row_exponent[i]));
    }
    Integer shift[W];
    for (int lane = 0; lane < W; ++lane) {
      shift[lane] = moved(e[lane]);
      if (p * W + lane < n) {
        pivots.column_exponent[p * W + lane] = shift[lane];
        pivots.total -= shift[lane];
      }
    }
    const I column = load<Integer, W>(shift);
    for (int64_t i = 0; i < n; ++i) {
      A.row(i)[p] = scale_pow2(A.row(i)[p], I(pivots.row_exponent[i]) + column);
    }
  }
}

// row_i[pack] -= l * pivot_row[pack] right of column k, and l itself at column k, in one pass over
// the pack.
template <typename P>
TORCHDET_LANE void eliminate_in_pack(const RowMatrix<P>& A, int64_t i, int64_t k, NumberOf<P> l,
                                     P pivot_row_right) {
  constexpr int W = LaneTraits<P>::kWidth;
  using Integer = typename Format<ScalarOf<P>>::Integer;
  P* x = A.row(i) + k / W;
  const P factor = broadcast<P>(l);
  const auto at_k = equal(lane_numbers<P>(), IntegerOf<P>(static_cast<Integer>(k % W)));
  *x = select(at_k, factor, fnma(factor, pivot_row_right, *x));
}

// The pack of row k that holds column k, with the columns up to k set to zero.
template <typename P>
TORCHDET_LANE P right_of_diagonal(const RowMatrix<P>& A, int64_t k) {
  constexpr int W = LaneTraits<P>::kWidth;
  using Integer = typename Format<ScalarOf<P>>::Integer;
  const auto right = greater(lane_numbers<P>(), IntegerOf<P>(static_cast<Integer>(k % W)));
  return select(right, A.row(k)[k / W], zero<P>());
}

// P B = L U in place: panels of one pack of columns, then the rows of U of the panel, then all rows
// below at once.
template <typename P>
void factor_lu_rows(const RowMatrix<P>& A, Pivots<P>& pivots) {
  constexpr int W = LaneTraits<P>::kWidth;
  const int64_t n = A.n;
  pivots.sign = 1;
  for (int64_t i = 0; i < n; ++i) {
    pivots.row_index[i] = i;
  }
  for (int64_t begin = 0; begin < n; begin += W) {
    const int64_t end = std::min<int64_t>(begin + W, n);
    for (int64_t k = begin; k < end; ++k) {
      int64_t pivot = k;
      ScalarOf<P> best = pivot_size(A.get(k, k));
      for (int64_t i = k + 1; i < n; ++i) {
        const ScalarOf<P> size = pivot_size(A.get(i, k));
        if (size > best) {
          best = size;
          pivot = i;
        }
      }
      if (pivot != k) {
        A.swap_rows(pivot, k);
        std::swap(pivots.row_index[pivot], pivots.row_index[k]);
        std::swap(pivots.row_exponent[pivot], pivots.row_exponent[k]);
        pivots.sign = -pivots.sign;
      }
      const PivotQuotient<NumberOf<P>> quotient(A.get(k, k));
      const P right = right_of_diagonal(A, k);
      for (int64_t i = k + 1; i < n; ++i) {
        eliminate_in_pack(A, i, k, quotient(A.get(i, k)), right);
      }
    }
    const int64_t next = begin / W + 1;
    for (int64_t i = begin + 1; i < end; ++i) {
      subtract_products<false>(A, A, A, i, i + 1, begin, i, next, A.packs);
    }
    subtract_products<false>(A, A, A, end, n, begin, end, next, A.packs);
  }
}

// P B Q = L D U in place: L below the diagonal, D on it, unit U above. The row maxima of the
// remaining block are found while it is updated, so the search for the largest entry looks at one
// number per row and then along one row.
template <typename P>
void factor_ldu_rows(const RowMatrix<P>& A, Pivots<P>& pivots, ScalarOf<P>* row_largest) {
  using R = RealOf<P>;
  constexpr int W = LaneTraits<P>::kWidth;
  const int64_t n = A.n;
  pivots.sign = 1;
  for (int64_t i = 0; i < n; ++i) {
    pivots.row_index[i] = pivots.column_index[i] = i;
    R largest = R(ScalarOf<P>(0));
    for (int64_t p = 0; p < A.packs; ++p) {
      largest = maximum(largest, pivot_size(A.row(i)[p]));
    }
    row_largest[i] = largest_lane(largest);
  }
  for (int64_t k = 0; k < n; ++k) {
    const int64_t row = std::max_element(row_largest + k, row_largest + n) - row_largest;
    int64_t column = k;
    for (int64_t j = k + 1; j < n; ++j) {
      column = pivot_size(A.get(row, j)) > pivot_size(A.get(row, column)) ? j : column;
    }
    A.swap_rows(row, k);
    std::swap(row_largest[row], row_largest[k]);
    std::swap(pivots.row_index[row], pivots.row_index[k]);
    std::swap(pivots.row_exponent[row], pivots.row_exponent[k]);
    for (int64_t i = 0; i < n && column != k; ++i) {
      const NumberOf<P> x = A.get(i, k);
      A.set(i, k, A.get(i, column));
      A.set(i, column, x);
    }
    std::swap(pivots.column_index[column], pivots.column_index[k]);
    std::swap(pivots.column_exponent[column], pivots.column_exponent[k]);
    pivots.sign = (row != k) != (column != k) ? -pivots.sign : pivots.sign;

    const PivotQuotient<NumberOf<P>> quotient(A.get(k, k));
    const P right = right_of_diagonal(A, k);
    const int64_t first = k / W;
    const auto is_right =
        greater(lane_numbers<P>(), IntegerOf<P>(static_cast<typename Pivots<P>::Integer>(k % W)));
    for (int64_t i = k + 1; i < n; ++i) {
      const NumberOf<P> l = quotient(A.get(i, k));
      eliminate_in_pack(A, i, k, l, right);
      R largest = select(is_right, pivot_size(A.row(i)[first]), R(ScalarOf<P>(0)));
      const P factor = broadcast<P>(l);
      for (int64_t p = first + 1; p < A.packs; ++p) {
        A.row(i)[p] = fnma(factor, A.row(k)[p], A.row(i)[p]);
        largest = maximum(largest, pivot_size(A.row(i)[p]));
      }
      row_largest[i] = largest_lane(largest);
    }
    for (int64_t j = k + 1; j < n; ++j) {
      A.set(k, j, quotient(A.get(k, j)));
    }
  }
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
