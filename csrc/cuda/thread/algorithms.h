// Determinants and cofactors without exponents, in the registers of one thread.
//
// What limits these kernels beside memory is the pipe for comparisons, selections and integers, so
// nothing here takes exponents apart: the products are plain ones, and a few comparisons tell
// whether that was right. They look at the thread's own matrix only.
#pragma once

#include "../pivot.h"

#include "../../math/cofactor.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// 8 t / eps^2, with t the smallest subnormal number: beside eps times that, underflow, which costs
// a few t, is nothing.
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
// column `first` on; label and row_size go along. Largest beside row_size of its row, where that is
// given. Returns whether the number of exchanges is odd.
template <int N, typename V>
TORCHDET_DEVICE bool bring_up_pivot(V* a, int k, int first, int* label, RealOf<V>* row_size) {
  bool odd = false;
  TORCHDET_UNROLL
  for (int i = k + 1; i < N; ++i) {
    RealOf<V> size = pivot_size(a[i * N + k]), best = pivot_size(a[k * N + k]);
    if (row_size != nullptr) {
      size = size * row_size[k];
      best = best * row_size[i];
    }
    const bool larger = size > best;
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
    if (row_size != nullptr) {
      const RealOf<V> upper = row_size[k];
      row_size[k] = larger ? row_size[i] : upper;
      row_size[i] = larger ? upper : row_size[i];
    }
  }
  return odd;
}

// One step of elimination below row k, by the pivot there; the multipliers are left in place.
template <int N, typename V>
TORCHDET_DEVICE void eliminate_below(V* a, int k, const Pivot<V>& pivot) {
  TORCHDET_UNROLL
  for (int i = k + 1; i < N; ++i) {
    const V l = a[i * N + k] = pivot.quotient(a[i * N + k]);
    TORCHDET_UNROLL
    for (int j = k + 1; j < N; ++j) {
      a[i * N + j] = fnma(l, a[k * N + j], a[i * N + j]);
    }
  }
}

// det of a, which is overwritten, and whether it can be trusted, in any scaling of rows and
// columns.
//
// n = 2: the expansion, within 1.5 units. n = 3, 4: elimination to a last 2 x 2 block. The pivot of
// a column is the entry that is largest beside z_i, the sum of the magnitudes of its row of A. In
// the scaling of math/equilibrate.h, where z_i lies between 1/2 and 2n, that is within 4n of the
// largest, which bounds the multipliers; the scale of a column changes nothing in elimination.
//
// Range, with t the smallest subnormal number and S the sum of the z_i. Unscaled, multipliers are
// at most z_i / z_k, so entries of row i stay below 2^(n-2) z_i, and an underflow of t in one of
// them, or in its multiplier, changes the determinant by t times entries of other rows: less than
// 2^7 t (1 + S)^n in all. Against that stand the determinant, n eps of which is within a unit of
// tests/units.py, and its terms, the pivots times two entries of the last block. All factors of a
// term but one make a minor of order n - 1, and that one is below 2^9 in the scaling above, so
// 2^-10 eps of a term is within a unit, even where the terms cancel to 0. Where one of them exceeds
// 8 t / eps^2 (1 + S)^n, underflow is at most 2^14 eps units. Nor have products of sizes
// underflowed in the search for a pivot then: it would be too small. Had they overflowed, so would
// (1 + S)^n. Any other overflow stays infinite or NaN, as do infinite entries and NaN.
template <int N, typename V>
TORCHDET_DEVICE bool plain_determinant(V* a, V& value) {
  if constexpr (N == 1) {
    return false;
  } else {
    using R = RealOf<V>;
    const V* last = a + (N - 2) * (N + 1);
    const auto expand = [&](V& term) {
      term = last[1] * last[N];
      return difference_of_products(last[0], last[N + 1], last[1], last[N]);
    };
    V term = zero<V>();
    R power = 1;
    if constexpr (N == 2) {
      value = expand(term);
    } else {
      R row_size[N], sum = 1;
      TORCHDET_UNROLL
      for (int i = 0; i < N; ++i) {
        row_size[i] = pivot_size(a[i * N]);
        TORCHDET_UNROLL
        for (int j = 1; j < N; ++j) {
          row_size[i] = row_size[i] + pivot_size(a[i * N + j]);
        }
        sum = sum + row_size[i];
      }
      power = N == 3 ? sum * sum * sum : sum * sum * (sum * sum);
      bool odd = false;
      V product = one<V>();
      TORCHDET_UNROLL
      for (int k = 0; k < N - 2; ++k) {
        odd = odd != bring_up_pivot<N>(a, k, k, nullptr, row_size);
        const V u = a[k * N + k];
        eliminate_below<N>(a, k, Pivot<V>(u));
        product = product * u;
      }
      value = expand(term) * (odd ? -product : product);
      term = term * product;
    }
    const R size = pivot_size(value) + pivot_size(term);
    return size >= least_plain<R>() * power && size <= std::numeric_limits<R>::max();
  }
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

// y = C(A) by minors, and whether they are all there, in any scaling of rows and columns.
//
// n <= 2: 1 or entries of A. n = 3, 4: with t the smallest subnormal number and S the sum of the
// magnitudes of all entries, underflow costs a cofactor at most 2^2 t (1 + S)^(n-3). Scaled to B
// (math/equilibrate.h), cofactors are in units of 2^(R - r_i - c_j), and with 2^r_i <= 2 S and
// 2^c_j <= 1 that is, of the whole matrix, at most 2^5 t (1 + S)^(n-2) 2^-R. With s_k the singular
// values of B, s_1 >= 1/2, the unit of tests/units.py is at least 3 eps s_1^2, n = 3, or 4 eps
// s_1^2 s_2, n = 4. Against that stands w, the sum of the magnitudes of the terms of det(A),
// products of entries (n = 3) or of pairs of minors (n = 4). In B these are products of numbers
// below 1, or of one minor of at most s_1 s_2 and another below 2, so that the unit is above
// 2^(-7-R) eps w. Where w > 8 t / eps^2 (1 + S)^(n-1), underflow is at most 2^9 eps units. No
// cofactor overflows then, since (1 + S)^(n-1) would; infinite entries and NaN make S so.
template <int N, typename V>
TORCHDET_DEVICE bool cofactors_by_minors(const V* a, V* y) {
  using R = RealOf<V>;
  if constexpr (N <= 2) {
    cofactor_closed<N>(a, y);
    R check = 0;
    TORCHDET_UNROLL
    for (int t = 0; t < N * N; ++t) {
      check = add_nothing(a[t], check);
    }
    return check == R(0);
  } else {
    R sum = 1, w = 0;
    TORCHDET_UNROLL
    for (int t = 0; t < N * N; ++t) {
      sum = sum + pivot_size(a[t]);
    }
    if constexpr (N == 3) {
      cofactor_closed<N>(a, y);
      TORCHDET_UNROLL
      for (int j = 0; j < 3; ++j) {
        const V *p = a + 3 + (j + 1) % 3, *q = a + 3 + (j + 2) % 3;
        w = w + pivot_size(a[j]) *
                    (pivot_size(p[0]) * pivot_size(q[3]) + pivot_size(q[0]) * pivot_size(p[3]));
      }
    } else {
      V minor[2][4][4];
      minors_of_order_2(a, minor);
      cofactors_of_order_4(a, minor, y);
      TORCHDET_UNROLL
      for (int q = 1; q < 4; ++q) {
        const int r = q == 1 ? 2 : 1, s = q == 3 ? 2 : 3;
        w = w + abs(minor[0][0][q] * minor[1][r][s]) + abs(minor[1][0][q] * minor[0][r][s]);
      }
    }
    return w > least_plain<R>() * (N == 3 ? sum * sum : sum * sum * sum);
  }
}

// y = C(A) with its rows permuted, and whether it can be trusted. Where the inverse is wanted, the
// factor is divided by the determinant. a is overwritten.
//
// By minors where that is accurate. Complex, n = 4: without a division by a pivot
// (math/cofactor.h), of balanced matrices whose pivots are moderate; NaN and infinity do not reach
// all entries by themselves, so such a matrix is not trusted.
template <int N, typename V>
TORCHDET_DEVICE bool plain_cofactors(V* a, bool wants_inverse, V& factor, V* y, int* row_index) {
  using R = RealOf<V>;
  using T = ScalarOf<V>;
  TORCHDET_UNROLL
  for (int i = 0; i < N; ++i) {
    row_index[i] = i;
  }
  bool is_plain = true;
  if constexpr (kHasClosedForm<N, V>) {
    is_plain = cofactors_by_minors<N>(a, y);
    if (wants_inverse) {
      V d = one<V>();
      is_plain = plain_determinant<N>(a, d) && is_plain;
      is_plain = divide_plainly(d, factor) && is_plain;
    }
  } else {
    R check = 0;
    TORCHDET_UNROLL
    for (int t = 0; t < N * N; ++t) {
      check = add_nothing(a[t], check);
    }
    is_plain = check == R(0) && is_balanced<N, kCofactorCentral<N, T>>(a);
    constexpr int kModerate = Format<T>::kMaxExponent * 2 / (3 * (N - 1));
    bool odd = false;
    R smallest = std::numeric_limits<R>::max();
    V d = one<V>();
    TORCHDET_UNROLL
    for (int k = 0; k < N - 1; ++k) {
      odd = odd != bring_up_pivot<N>(a, k, 0, row_index, nullptr);
      const V u = a[k * N + k];
      eliminate_below<N>(a, k, Pivot<V>(u));
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
