// LDU with complete pivoting, P B Q = L D U with unit triangular L, U whose entries are at most 1
// in pivot_size.
//
// The largest entry of the remaining block becomes the pivot, so D reveals the rank: a zero pivot
// means that everything after it is exactly zero. L and U are well conditioned (but for contrived
// matrices), which is what the second derivative needs and partial pivoting does not give.
#pragma once

#include "lu.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename V>
TORCHDET_LANE void exchange_columns(V* a, int n, int k, IntegerOf<V> pivot) {
  using I = IntegerOf<V>;
  TORCHDET_UNROLL
  for (int i = 0; i < n; ++i) {
    V* row = a + i * tile_stride(n);
    const V old = row[k];
    V top = old;
    TORCHDET_UNROLL
    for (int j = k + 1; j < n; ++j) {
      const auto chosen = equal(pivot, I(j));
      top = select(chosen, row[j], top);
      row[j] = select(chosen, old, row[j]);
    }
    row[k] = top;
  }
}

// Factors a (n x n, row-major) in place: multipliers of L below the diagonal, D on it, unit U above
// it. Returns det P det Q. Labels go out in pivoted order.
template <typename V>
TORCHDET_LANE RealOf<V> factor_ldu(V* a, int n, RowLabels<V> rows, RowLabels<V> columns) {
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  const int s = tile_stride(n);
  R sign = R(ScalarOf<V>(1));
  TORCHDET_UNROLL
  for (int i = 0; i < n; ++i) {
    rows.index[i] = columns.index[i] = I(i);
  }
  TORCHDET_UNROLL
  for (int k = 0; k < n; ++k) {
    R best = pivot_size(a[k * s + k]);
    I pivot_row = I(k), pivot_column = I(k);
    TORCHDET_UNROLL
    for (int i = k; i < n; ++i) {
      TORCHDET_UNROLL
      for (int j = k; j < n; ++j) {
        const R size = pivot_size(a[i * s + j]);
        const auto larger = greater(size, best);
        best = select(larger, size, best);
        pivot_row = select(larger, I(i), pivot_row);
        pivot_column = select(larger, I(j), pivot_column);
      }
    }
    sign = select(equal(pivot_row, I(k)), sign, -sign);
    sign = select(equal(pivot_column, I(k)), sign, -sign);
    exchange_columns(a, n, k, pivot_column);
    exchange(columns.index, n, k, pivot_column);
    exchange(columns.exponent, n, k, pivot_column);
    exchange(rows.index, n, k, pivot_row);
    exchange(rows.exponent, n, k, pivot_row);
    exchange_and_update_range<false>(a, n, k, 0, k + 1, pivot_row);
    const PivotQuotient<V> quotient(a[k * s + k]);
    TORCHDET_UNROLL
    for (int i = k + 1; i < n; ++i) {
      a[i * s + k] = quotient(a[i * s + k]);
    }
    exchange_and_update_range<true>(a, n, k, k + 1, n, pivot_row);
    TORCHDET_UNROLL
    for (int j = k + 1; j < n; ++j) {
      a[k * s + j] = quotient(a[k * s + j]);
    }
  }
  return sign;
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
