// LDU with complete pivoting of one matrix, and the triangular solves that go with it: math/ldu.h
// with the columns of one matrix in the lanes.
#pragma once

#include "row_equilibrate.h"
#include "row_product.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename P>
struct LduPivots {
  int64_t* row_index;
  int64_t* column_index;
  ScalarOf<P> sign;  // of the permutations
};

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

// P B Q = L D U in place: L below the diagonal, D on it, unit U above; labels and exponents go out
// in pivoted order. The row maxima of the remaining block are found while it is updated, so the
// search for the largest entry looks at one number per row and then along one row.
template <typename P>
void factor_ldu_rows(const RowMatrix<P>& A, LduPivots<P>& pivots, Frame<P>& frame,
                     ScalarOf<P>* row_largest) {
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
    std::swap(frame.rows()[row], frame.rows()[k]);
    for (int64_t i = 0; i < n && column != k; ++i) {
      const NumberOf<P> x = A.get(i, k);
      A.set(i, k, A.get(i, column));
      A.set(i, column, x);
    }
    std::swap(pivots.column_index[column], pivots.column_index[k]);
    std::swap(frame.columns()[column], frame.columns()[k]);
    pivots.sign = (row != k) != (column != k) ? -pivots.sign : pivots.sign;

    const PivotQuotient<NumberOf<P>> quotient(A.get(k, k));
    const int64_t first = k / W;
    const auto is_right =
        greater(lane_numbers<P>(), IntegerOf<P>(static_cast<typename Frame<P>::Integer>(k % W)));
    const P right = select(is_right, A.row(k)[first], zero<P>());
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

// X_i -= sum_k M(i, k) X_k for rows i and k of the ranges, where M(i, k) = F(k, i) if kTransposed,
// else F(i, k).
template <bool kTransposed, typename P>
void subtract_products(const RowMatrix<P>& X, const RowMatrix<P>& F, int64_t i_begin, int64_t i_end,
                       int64_t k_begin, int64_t k_end) {
  using M = RowMatrix<P>;
  const auto scalars = [](const P* packs) { return reinterpret_cast<const ScalarOf<P>*>(packs); };
  // Along a row, numbers follow each other at a constant distance within a pack, real ones
  // anywhere.
  for (int64_t k = k_begin, next; k < k_end; k = next) {
    next = kTransposed || !kIsComplex<P> ? k_end : std::min(k_end, (k / M::W + 1) * M::W);
    for (int64_t p = 0; p < X.packs; p += kTilePacks<P>) {
      subtract_rows<P>(
          i_end - i_begin, std::min<int64_t>(kTilePacks<P>, X.packs - p),
          [&](int64_t m) { return X.row(i_begin + m) + p; },
          [&](int64_t m) {
            return kTransposed ? scalars(F.row(k)) + offset_of<P>(i_begin + m)
                               : scalars(F.row(i_begin + m)) + offset_of<P>(k);
          },
          kTransposed ? F.stride * M::W * M::kParts : 1, X.row(k) + p, X.stride, next - k);
    }
  }
}

// X <- M^-1 X for the unit triangle of M(i, k) = F(k, i) if kTransposed, else F(i, k), below the
// diagonal if kForward, else above it.
template <bool kForward, bool kTransposed, typename P>
void solve_unit_triangular(const RowMatrix<P>& F, const RowMatrix<P>& X) {
  constexpr int64_t kBlock = 16;
  const int64_t n = X.n, blocks = (n + kBlock - 1) / kBlock;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t begin = (kForward ? b : blocks - 1 - b) * kBlock;
    const int64_t end = std::min(begin + kBlock, n);
    subtract_products<kTransposed>(X, F, begin, end, kForward ? 0 : end, kForward ? begin : n);
    for (int64_t s = 1; s < end - begin; ++s) {
      const int64_t i = kForward ? begin + s : end - 1 - s;
      for (int64_t k = kForward ? begin : i + 1; k < (kForward ? i : end); ++k) {
        const P factor = broadcast<P>(kTransposed ? F.get(k, i) : F.get(i, k));
        for (int64_t p = 0; p < X.packs; ++p) {
          X.row(i)[p] = fnma(factor, X.row(k)[p], X.row(i)[p]);
        }
      }
    }
  }
}

template <typename P>
void transpose(const RowMatrix<P>& X) {
  for (int64_t i = 0; i < X.n; ++i) {
    for (int64_t j = 0; j < i; ++j) {
      const NumberOf<P> x = X.get(i, j);
      X.set(i, j, X.get(j, i));
      X.set(j, i, x);
    }
  }
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
