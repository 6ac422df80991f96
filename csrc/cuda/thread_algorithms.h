// Determinants and cofactors of matrices that need no scaling, in the registers of one thread.
//
// What limits these kernels beside memory is the pipe for comparisons, selections and integers, so
// nothing here takes exponents apart: the products are plain ones, and a few comparisons tell
// whether that was right. They look at the thread's own matrix only.
#pragma once

#include "pivot.h"

#include "../math/cofactor.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// A product of size 2^e is known to its last bit, 2^(e - 2 p + 1) for p bits of precision, where
// that is no less than the smallest subnormal number. From this size on it is, and what other terms
// lose below it is nothing beside the result.
template <typename R>
TORCHDET_DEVICE constexpr R least_plain() {
  using F = Format<R>;
  return exact_pow2<R>(IntegerOf<R>(F::kMinExponent + F::kFractionBits + 3));
}

// The rule of math/equilibrate.h: a matrix whose rows and columns all have an entry near the
// largest one, which is near 1, stays as it is. Says nothing of NaN.
template <int N, int kWithin, typename V>
TORCHDET_DEVICE bool is_balanced(const V* a) {
  using R = RealOf<V>;
  R row_size[N], column_size[N];
  TORCHDET_UNROLL
  for (int i = 0; i < N; ++i) {
    TORCHDET_UNROLL
    for (int j = 0; j < N; ++j) {
      const R size = component_size(a[i * N + j]);
      row_size[i] = j == 0 ? size : maximum(row_size[i], size);
      column_size[j] = i == 0 ? size : maximum(column_size[j], size);
    }
  }
  R largest = row_size[0], least = row_size[0];
  TORCHDET_UNROLL
  for (int i = 0; i < N; ++i) {
    largest = maximum(largest, row_size[i]);
    least = minimum(least, minimum(row_size[i], column_size[i]));
  }
  return least >= largest * exact_pow2<R>(-kBalance<N>) && least >= exact_pow2<R>(-kWithin) &&
         largest <= exact_pow2<R>(kWithin);
}

// The largest entry of column k, of those in rows k and below, to row k, by exchanges of rows from
// column `first` on; label goes along. Returns whether the number of exchanges is odd.
template <int N, typename V>
TORCHDET_DEVICE bool bring_up_pivot(V* a, int k, int first, int* label) {
  bool odd = false;
  TORCHDET_UNROLL
  for (int i = k + 1; i < N; ++i) {
    const bool larger = pivot_size(a[i * N + k]) > pivot_size(a[k * N + k]);
    odd = odd != larger;
    TORCHDET_UNROLL
    for (int j = 0; j < N; ++j) {
      if (j >= first) {
        const V upper = a[k * N + j];
        a[k * N + j] = select(larger, a[i * N + j], upper);
        a[i * N + j] = select(larger, upper, a[i * N + j]);
      }
    }
    if (label != nullptr) {
      const int upper = label[k];
      label[k] = larger ? label[i] : upper;
      label[i] = larger ? upper : label[i];
    }
  }
  return odd;
}

// One step of elimination below row k, the multipliers left in place; the pivot.
template <int N, typename V>
TORCHDET_DEVICE V eliminate_below(V* a, int k) {
  const V u = a[k * N + k];
  const Pivot<V> pivot(u);
  TORCHDET_UNROLL
  for (int i = k + 1; i < N; ++i) {
    const V l = a[i * N + k] = pivot.quotient(a[i * N + k]);
    TORCHDET_UNROLL
    for (int j = k + 1; j < N; ++j) {
      a[i * N + j] = fnma(l, a[k * N + j], a[i * N + j]);
    }
  }
  return u;
}

// det of a, which is overwritten, and whether it can be trusted.
//
// n = 2: the expansion, within 1.5 units, whose products cannot leave the range unseen: an overflow
// is infinite or NaN, and what underflows is nothing beside a result of at least least_plain().
// n = 3, 4: elimination with partial pivoting of a balanced matrix to a last 2 x 2 block. There a
// determinant of exactly 0 is right, too, where a pivot is 0, or where the two products of the last
// block are equal and large enough to be exact.
template <int N, typename V>
TORCHDET_DEVICE bool plain_determinant(V* a, V& value) {
  using R = RealOf<V>;
  bool is_plain = N == 2;
  bool has_zero_pivot = false, odd = false;
  V product = one<V>();
  if constexpr (N > 2) {
    is_plain = is_balanced<N, kCentral>(a);
    TORCHDET_UNROLL
    for (int k = 0; k < N - 2; ++k) {
      odd = odd != bring_up_pivot<N>(a, k, k, nullptr);
      const V u = eliminate_below<N>(a, k);
      has_zero_pivot = has_zero_pivot || component_size(u) == R(0);
      product = product * u;
    }
  }
  if constexpr (N > 1) {
    const V* last = a + (N - 2) * (N + 1);
    value = difference_of_products(last[0], last[N + 1], last[1], last[N]);
    if constexpr (!kIsComplex<V>) {
      has_zero_pivot = has_zero_pivot || (value == 0 && abs(last[1] * last[N]) >= least_plain<R>());
    }
    // This also brings a NaN of one part of a complex number to the other: component_size() may
    // not see it.
    value = value * product;
    value = odd ? -value : value;
  }
  const R size = component_size(value);
  const bool is_large = size >= least_plain<R>() && size <= std::numeric_limits<R>::max();
  return is_plain && (is_large || (has_zero_pivot && size == R(0)));
}

// factor <- factor / d, and whether all of that is far from the ends of the range.
template <typename V>
TORCHDET_DEVICE bool divide_plainly(V d, V& factor) {
  using R = RealOf<V>;
  constexpr int kFar = Format<ScalarOf<V>>::kMaxExponent / 2 - 2;
  factor = factor * reciprocal(d);
  const R size = component_size(d), quotient = component_size(factor);
  return minimum(size, quotient) >= exact_pow2<R>(-kFar) &&
         maximum(size, quotient) <= exact_pow2<R>(kFar);
}

// y = C(A) with its rows permuted, and whether it can be trusted. Where the inverse is wanted, the
// factor is divided by the determinant. a is overwritten.
//
// n = 2: entries of A. n = 3: minors, each within 1.5 units; in a balanced matrix what underflows
// in one is nothing beside the other cofactors. n = 4: without a division by a pivot
// (math/cofactor.h), where the pivots are moderate by the same bound. NaN and infinity do not reach
// all entries by themselves, so such a matrix is not trusted.
template <int N, typename V>
TORCHDET_DEVICE bool plain_cofactors(V* a, bool wants_inverse, V& factor, V* y, int* row_index) {
  using R = RealOf<V>;
  using T = ScalarOf<V>;
  R check = 0;
  TORCHDET_UNROLL
  for (int t = 0; t < N * N; ++t) {
    check = add_nothing(a[t], check);
  }
  bool is_plain = check == R(0);
  TORCHDET_UNROLL
  for (int i = 0; i < N; ++i) {
    row_index[i] = i;
  }
  if constexpr (N > 2) {
    is_plain = is_plain && is_balanced<N, kCofactorCentral<N, T>>(a);
  }
  if constexpr (N <= 3) {
    cofactor_closed<N>(a, y);
    if (wants_inverse) {
      V d = one<V>();
      is_plain = plain_determinant<N>(a, d) && is_plain;
      is_plain = divide_plainly(d, factor) && is_plain;
    }
  } else {
    constexpr int kModerate = Format<T>::kMaxExponent * 2 / (3 * (N - 1));
    bool odd = false;
    R smallest = std::numeric_limits<R>::max();
    V d = one<V>();
    TORCHDET_UNROLL
    for (int k = 0; k < N - 1; ++k) {
      odd = odd != bring_up_pivot<N>(a, k, 0, row_index);
      const V u = eliminate_below<N>(a, k);
      smallest = minimum(smallest, component_size(u));
      d = d * u;
    }
    is_plain = is_plain && smallest >= exact_pow2<R>(-kModerate);
    moderate_cofactors<N>(a, odd ? R(-1) : R(1), y);
    if (wants_inverse) {
      d = d * a[N * N - 1];
      is_plain = divide_plainly(odd ? -d : d, factor) && is_plain;
    }
  }
  return is_plain;
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
