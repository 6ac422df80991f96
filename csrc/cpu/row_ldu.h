// LDU with complete pivoting of one matrix, and the triangular solves that go with it: math/ldu.h
// with the columns of one matrix in the lanes.
#pragma once

#include "row_io.h"
#include "row_product.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename P>
struct LduPivots {
  int64_t* row_index;
  int64_t* column_index;
  ScalarOf<P> sign;  // of the permutations
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

// P B Q = L D U in place: L below the diagonal, D on it, unit U above; labels go out in pivoted
// order. l: space for n numbers in packs.
template <typename P>
void factor_ldu_rows(const RowMatrix<P>& A, LduPivots<P>& pivots, P* l) {
  using I = IntegerOf<P>;
  using Integer = typename Format<ScalarOf<P>>::Integer;
  constexpr int W = LaneTraits<P>::kWidth;
  const int64_t n = A.n;
  pivots.sign = 1;
  for (int64_t i = 0; i < n; ++i) {
    pivots.row_index[i] = pivots.column_index[i] = i;
  }
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
  const int64_t n = X.n, blocks = (n + kTileRows - 1) / kTileRows;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t begin = (kForward ? b : blocks - 1 - b) * kTileRows;
    const int64_t end = std::min(begin + kTileRows, n);
    subtract_products<kTransposed>(X, F, begin, end, kForward ? 0 : end, kForward ? begin : n);
    const auto row_of = [&](int64_t s) { return kForward ? begin + s : end - 1 - s; };
    for (int64_t p = 0; p < X.packs; p += kTilePacks<P>) {
      solve_unit_lower<P>(
          end - begin, std::min<int64_t>(kTilePacks<P>, X.packs - p),
          [&](int64_t s) { return X.row(row_of(s)) + p; },
          [&](int64_t s, int64_t t) {
            const int64_t i = row_of(s), k = row_of(t);
            return reinterpret_cast<const ScalarOf<P>*>(F.row(kTransposed ? k : i)) +
                   offset_of<P>(kTransposed ? i : k);
          });
    }
  }
}

// In blocks of W x W.
template <typename P>
void transpose(const RowMatrix<P>& X) {
  constexpr int W = RowMatrix<P>::W;
  const auto load_block = [&](int64_t i, int64_t p, P(&x)[W]) {
    for (int r = 0; r < W; ++r) {
      x[r] = i + r < X.n ? X.row(i + r)[p] : zero<P>();
    }
    transpose(x);
  };
  const auto store_block = [&](int64_t i, int64_t p, const P(&x)[W]) {
    for (int r = 0; r < W && i + r < X.n; ++r) {
      X.row(i + r)[p] = x[r];
    }
  };
  for (int64_t i = 0; i < X.packs; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      P lower[W], upper[W];
      load_block(i * W, j, lower);
      load_block(j * W, i, upper);
      store_block(j * W, i, lower);
      store_block(i * W, j, upper);
    }
  }
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
