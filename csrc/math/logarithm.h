// Sign and logarithm of a determinant from its mantissa and exponent.
#pragma once

#include <numbers>

#include "scaled.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// Sign and logarithm, or mantissa and exponent.
template <typename V>
struct SignAndLog {
  V sign;
  RealOf<V> log;  // of the modulus
};

// log(m 2^e) for m in [1, 2 sqrt(2)]. m is moved to [1 / sqrt(2), sqrt(2)], so that determinants
// near 1 do not cancel, and there
//     log m = 2 artanh s = 2 s (1 + s^2 / 3 + s^4 / 5 + ..),   s = (m - 1) / (m + 1), s^2 < 0.0295.
// The terms left out are below 2^-28 (float) and 2^-55 (double) of the sum.
template <typename R>
TORCHDET_LANE R log_scaled(R m, IntegerOf<R> e) {
  using T = ScalarOf<R>;
  using I = IntegerOf<R>;
  constexpr int kTerms = sizeof(T) == 4 ? 5 : 10;
  const auto large = greater(m, R(std::numbers::sqrt2_v<T>));
  m = select(large, m * R(T(0.5)), m);
  e = select(large, e + I(1), e);
  const R s = (m - R(T(1))) / (m + R(T(1)));
  const R square = s * s;
  R sum = R(T(1) / (2 * kTerms - 1));
  for (int k = kTerms - 2; k > 0; --k) {
    sum = fma(sum, square, R(T(1) / (2 * k + 1)));
  }
  const R twice = s + s;
  const R log_m = fma(twice * square, sum, twice);
  // ln 2 in two parts, the second the rounding error of the first.
  constexpr T kLn2 = std::numbers::ln2_v<T>;
  constexpr T kLn2Rest =
      sizeof(T) == 4 ? T(std::numbers::ln2_v<double> - kLn2) : T(2.319046813846299558e-17);
  const R exponent = real_of(e);
  return fma(exponent, R(kLn2), fma(exponent, R(kLn2Rest), log_m));
}

// As frexp: the larger component of the mantissa is in [1/2, 1).
template <typename V>
TORCHDET_LANE SignAndLog<V> mantissa_and_exponent(Scaled<V> d) {
  return {d.mantissa * RealOf<V>(ScalarOf<V>(0.5)), real_of(d.exponent + IntegerOf<V>(1))};
}

template <typename R>
TORCHDET_LANE SignAndLog<R> sign_and_log(Scaled<R> d) {
  using T = ScalarOf<R>;
  const R m = d.mantissa;
  const auto is_zero = equal(m, R(T(0)));
  const R one_with_sign = select(greater(m, R(T(0))), R(T(1)), R(T(-1)));
  const R log =
      select(is_zero, R(-std::numeric_limits<T>::infinity()), log_scaled(abs(m), d.exponent));
  // m - m is 0, or NaN where m is.
  return {select(is_zero, m, one_with_sign + (m - m)), log};
}
template <typename R>
TORCHDET_LANE SignAndLog<Complex<R>> sign_and_log(Scaled<Complex<R>> d) {
  using T = ScalarOf<R>;
  const R re = d.mantissa.re, im = d.mantissa.im;
  const R size = square_root(fma(re, re, im * im));
  const auto is_zero = equal(size, R(T(0)));
  const R divisor = select(is_zero, R(T(1)), size);
  return {{re / divisor, im / divisor},
          select(is_zero, R(-std::numeric_limits<T>::infinity()), log_scaled(size, d.exponent))};
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
