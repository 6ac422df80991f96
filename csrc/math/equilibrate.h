// Equilibration: B = 2^-r A 2^-c with integer r_i, c_j, so that the largest entry of every nonzero
// row and column of B lies in [1/2, 2).
//
// Powers of two are exact, so B has the determinant of A up to 2^R, R = sum r + sum c, and C(A)_ij
// = C(B)_ij 2^(R - r_i - c_j). Every pivot and product of the algorithms that follow is then of
// moderate size, and 1e-300 beside 1e300 costs nothing. Each entry is scaled once by the sum r_i +
// c_j: scaling rows and columns one after the other would push entries through the subnormal range.
#pragma once

#include "lane.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename R>
TORCHDET_LANE IntegerOf<R> entry_exponent(R x) {
  return exponent_of(x);
}
template <typename R>
TORCHDET_LANE IntegerOf<R> entry_exponent(Complex<R> x) {
  return maximum(exponent_of(x.re), exponent_of(x.im));
}

// Exponents below this belong to zeros (kZeroExponent plus or minus any true exponent).
constexpr int kZeroExponentBound = kZeroExponent / 2;

template <typename V>
struct Equilibration {
  IntegerOf<V> total;  // R
  RealOf<V> poison;    // NaN if an entry of A is infinite or NaN, else 0: added to results, which
                       // need not depend on it
};

// 2^(row[i] + column[j]) as a factor for entry (i, j), where every exponent of the tile is small
// enough for it.
template <typename V>
class PairScaling {
 public:
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  TORCHDET_LANE PairScaling(const I* row, const I* column, int n) : row_(row), column_(column) {
    I largest = maximum(row[0], -row[0]);
    for (int i = 0; i < n; ++i) {
      largest = maximum(largest, maximum(row[i], -row[i]));
      largest = maximum(largest, maximum(column[i], -column[i]));
    }
    fits_ = !any(greater(largest, I(kPairExponent<R>)));
  }
  // f(i, j, scale) for all entries of an n x n matrix, with scale(x) = x * 2^(row[i] + column[j]).
  template <typename Body>
  TORCHDET_LANE void for_entries(int n, Body body) const {
    if (fits_) {
      R column_factor[kMaxLaneOrder];
      for (int j = 0; j < n; ++j) {
        column_factor[j] = exact_pow2<R>(column_[j]);
      }
      for (int i = 0; i < n; ++i) {
        const R row_factor = exact_pow2<R>(row_[i]);
        for (int j = 0; j < n; ++j) {
          body(i, j, [&](V x) { return x * (row_factor * column_factor[j]); });
        }
      }
    } else {
      for (int i = 0; i < n; ++i) {
        for (int j = 0; j < n; ++j) {
          body(i, j, [&](V x) { return scale_pow2(x, row_[i] + column_[j]); });
        }
      }
    }
  }

 private:
  const I* row_;
  const I* column_;
  bool fits_;
};

// The largest and the smallest nonzero of the numbers seen, as bit patterns, which order like the
// numbers.
template <typename R>
struct MagnitudeRange {
  using I = IntegerOf<R>;
  I largest, smallest;
  TORCHDET_LANE MagnitudeRange()
      : largest(I(0)), smallest(I(std::numeric_limits<ScalarOf<I>>::max())) {}
  TORCHDET_LANE void include(R x) {
    const I bits = bits_of(abs(x));
    largest = maximum(largest, bits);
    smallest = select(equal(bits, I(0)), smallest, minimum(smallest, bits));
  }
  TORCHDET_LANE void include(Complex<R> x) {
    include(x.re);
    include(x.im);
  }
};

// column[j] = -max_i (exponent of a_ij - r_i), and the scaling, for numbers of any size.
template <typename V>
TORCHDET_LANE void scale_any(V* a, int n, const IntegerOf<V>* row, IntegerOf<V>* column) {
  using I = IntegerOf<V>;
  const int s = tile_stride(n);
  for (int j = 0; j < n; ++j) {
    I e = I(kZeroExponent);
    for (int i = 0; i < n; ++i) {
      e = maximum(e, entry_exponent(a[i * s + j]) + row[i]);
    }
    column[j] = select(greater(I(kZeroExponentBound), e), I(0), -e);
  }
  PairScaling<V>(row, column, n).for_entries(n, [&](int i, int j, auto scale) {
    a[i * s + j] = scale(a[i * s + j]);
  });
}

// The same, bit for bit, where no entry is so large or so small that a scaled one could leave the
// normal range: rows are scaled first, and the columns' exponents read off the result.
template <typename V>
TORCHDET_LANE void scale_moderate(V* a, int n, const IntegerOf<V>* row, IntegerOf<V>* column) {
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  const int s = tile_stride(n);
  R row_factor[kMaxLaneOrder];
  for (int i = 0; i < n; ++i) {
    row_factor[i] = exact_pow2<R>(row[i]);
  }
  for (int j = 0; j < n; ++j) {
    R largest = R(ScalarOf<V>(0));
    for (int i = 0; i < n; ++i) {
      a[i * s + j] = a[i * s + j] * row_factor[i];
      largest = maximum(largest, component_size(a[i * s + j]));
    }
    column[j] = select(equal(largest, R(ScalarOf<V>(0))), I(0), -exponent_of<true>(largest));
    const R factor = exact_pow2<R>(column[j]);
    for (int i = 0; i < n; ++i) {
      a[i * s + j] = a[i * s + j] * factor;
    }
  }
}

// Scales a (n x n, row-major) in place; row and column receive the exponents -r and -c. N is n
// where it is known at compile time, or 0.
template <int N, typename V>
TORCHDET_LANE Equilibration<V> equilibrate(V* a, int n_runtime, IntegerOf<V>* row,
                                           IntegerOf<V>* column) {
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  using T = ScalarOf<V>;
  const int n = N > 0 ? N : n_runtime;
  const int s = tile_stride(n);
  MagnitudeRange<R> range;
  I total = I(0);
  for (int i = 0; i < n; ++i) {
    const I largest = range.largest;
    range.largest = I(0);
    for (int j = 0; j < n; ++j) {
      range.include(a[i * s + j]);
    }
    row[i] = select(equal(range.largest, I(0)), I(0), -exponent_of(from_bits(range.largest)));
    total = total - row[i];
    range.largest = maximum(range.largest, largest);
  }
  constexpr int kModerate = kPairExponent<R> - 1;
  const auto extreme = mask_or(greater(range.largest, bits_of(exact_pow2<R>(I(kModerate)))),
                               greater(bits_of(exact_pow2<R>(I(-kModerate))), range.smallest));
  if (any(extreme)) {
    scale_any(a, n, row, column);
  } else {
    scale_moderate(a, n, row, column);
  }
  for (int j = 0; j < n; ++j) {
    total = total - column[j];
  }
  const auto non_finite = greater(range.largest, bits_of(R(std::numeric_limits<T>::max())));
  return {total, select(non_finite, R(std::numeric_limits<T>::quiet_NaN()), R(T(0)))};
}

template <typename R>
TORCHDET_LANE R add_poison(R x, R poison) {
  return x + poison;
}
template <typename R>
TORCHDET_LANE Complex<R> add_poison(Complex<R> x, R poison) {
  return {x.re + poison, x.im + poison};
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
