// LDU with complete pivoting, P B Q = L D U with unit triangular L, U whose entries are at most 1
// in pivot_size.
//
// The largest entry of the remaining block, beside the weights of its row and its column, becomes
// the pivot, so D reveals the rank: a zero pivot means that everything after it is exactly zero. L
// and U are well conditioned (but for contrived matrices), which is what the second derivative
// needs and partial pivoting does not give.
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

// For each column 2^-e, e being the exponent of its largest entry beside the weight of its row.
template <typename V>
TORCHDET_LANE void column_weights(const V* a, int n, const RealOf<V>* row_weight,
                                  RealOf<V>* column_weight) {
  using R = RealOf<V>;
  TORCHDET_UNROLL
  for (int j = 0; j < n; ++j) {
    R largest = R(std::numeric_limits<ScalarOf<V>>::min());
    TORCHDET_UNROLL
    for (int i = 0; i < n; ++i) {
      largest = maximum(component_size(a[i * tile_stride(n) + j]) * row_weight[i], largest);
    }
    column_weight[j] = weight_of<R>(bits_of(largest));
  }
}

// Factors a (n x n, row-major) in place: multipliers of L below the diagonal, D on it, unit U above
// it. Returns det P det Q. Labels and weights go out in pivoted order.
template <typename V>
TORCHDET_LANE RealOf<V> factor_ldu(V* a, int n, Labels<V> rows, Labels<V> columns,
                                   RealOf<V>* row_weight, RealOf<V>* column_weight) {
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
    const auto size_of = [&](int i, int j) TORCHDET_LANE_LAMBDA {
      return pivot_size(a[i * s + j]) * column_weight[j] * row_weight[i];
    };
    R best = size_of(k, k);
    I pivot_row = I(k), pivot_column = I(k);
    TORCHDET_UNROLL
    for (int i = k; i < n; ++i) {
      TORCHDET_UNROLL
      for (int j = k; j < n; ++j) {
        const R size = size_of(i, j);
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
    exchange(column_weight, n, k, pivot_column);
    exchange(row_weight, n, k, pivot_row);
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
