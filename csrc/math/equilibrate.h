// Equilibration: B = 2^-r A 2^-c with integer r_i, c_j, so that the largest entry of every nonzero row and column of B
// lies in [1/2, 2).
//
// Powers of two are exact, so B has the determinant of A up to 2^R, R = sum r + sum c, and C(A)_ij =
// C(B)_ij 2^(R - r_i - c_j). Every pivot and product of the algorithms that follow is then of moderate size, and
// 1e-300 beside 1e300 costs nothing. Each entry is scaled once by the sum r_i + c_j: scaling rows and columns one after
// the other would push entries through the subnormal range.
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
  RealOf<V> poison;    // NaN if an entry of A is infinite or NaN, else 0: added to results, which need not depend on it
};

// Scales a (n x n, row-major) in place; r and c receive the exponents. N is n where it is known at compile time, or 0.
template <int N, typename V>
TORCHDET_LANE Equilibration<V> equilibrate(V* a, int n_runtime, IntegerOf<V>* r, IntegerOf<V>* c) {
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  using F = Format<ScalarOf<V>>;
  const int n = N > 0 ? N : n_runtime;
  const I none = I(kZeroExponentBound);
  I largest = I(kZeroExponent);
  I total = I(0);
  for (int i = 0; i < n; ++i) {
    I e = I(kZeroExponent);
    for (int j = 0; j < n; ++j) {
      e = maximum(e, entry_exponent(a[i * n + j]));
    }
    largest = maximum(largest, e);
    r[i] = select(greater(none, e), I(0), e);
    total = total + r[i];
  }
  for (int j = 0; j < n; ++j) {
    I e = I(kZeroExponent);
    for (int i = 0; i < n; ++i) {
      e = maximum(e, entry_exponent(a[i * n + j]) - r[i]);
    }
    c[j] = select(greater(none, e), I(0), e);
    total = total + c[j];
    for (int i = 0; i < n; ++i) {
      a[i * n + j] = scale_pow2(a[i * n + j], -(r[i] + c[j]));
    }
  }
  const R nan = R(std::numeric_limits<ScalarOf<V>>::quiet_NaN());
  const R poison = select(greater(largest, I(F::kMaxExponent)), nan, R(ScalarOf<V>(0)));
  return {total, poison};
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
