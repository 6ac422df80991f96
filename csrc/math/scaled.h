// Numbers with an exponent of their own, and quotients by a pivot.
//
// Products of n pivots leave the range of the format long before the determinant does, and a
// determinant that is not representable still has a logarithm. So products are carried as mantissa
// * 2^exponent, renormalised at every factor (a single pivot can be 1e-300), and the exponent is
// put back once, at the very end.
#pragma once

#include "lane.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// mantissa * 2^exponent with the larger component of the mantissa in [1, 2), or a mantissa of 0.
template <typename V>
struct Scaled {
  V mantissa;
  IntegerOf<V> exponent;
};

template <typename V>
TORCHDET_LANE Scaled<V> normalise(V x, IntegerOf<V> exponent) {
  using I = IntegerOf<V>;
  const RealOf<V> size = component_size(x);
  const auto is_zero = equal(size, RealOf<V>(ScalarOf<V>(0)));
  const I e = select(is_zero, I(0), exponent_of(size));
  return {scale_pow2(x, -e), exponent + e};
}

// The same for a normal number, whose bits only need to be taken apart.
template <typename R>
TORCHDET_LANE Scaled<R> normalise_normal(R x) {
  using F = Format<ScalarOf<R>>;
  using I = IntegerOf<R>;
  using Bits = ScalarOf<I>;
  constexpr Bits kOne = Bits(F::kMaxExponent) << F::kFractionBits;
  constexpr Bits kExponent = Bits(F::kMaxExponent * 2 + 1) << F::kFractionBits;
  const I bits = bits_of(x), exponent = bits & I(kExponent);
  return {from_bits(bits - exponent + I(kOne)),
          (exponent >> F::kFractionBits) - I(F::kMaxExponent)};
}

template <typename V>
TORCHDET_LANE Scaled<V> scaled_one() {
  return {one<V>(), IntegerOf<V>(0)};
}

// The factor is normalised before it is multiplied in, so that a subnormal pivot keeps its few
// bits. Then the product of the mantissas is 0 or between 1/2 and 8, and its exponent plain to see.
template <typename V>
TORCHDET_LANE Scaled<V> operator*(Scaled<V> a, V b) {
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  const Scaled<V> factor = normalise(b, a.exponent);
  const V product = a.mantissa * factor.mantissa;
  const R size = component_size(product);
  const I e = select(equal(size, R(ScalarOf<V>(0))), I(0), exponent_of<true>(size));
  return {product * exact_pow2<R>(-e), factor.exponent + e};
}

template <typename V>
TORCHDET_LANE Scaled<V> operator*(Scaled<V> a, Scaled<V> b) {
  return normalise(a.mantissa * b.mantissa, a.exponent + b.exponent);
}

template <typename R>
TORCHDET_LANE R reciprocal(R x) {
  return R(ScalarOf<R>(1)) / x;
}
// For x whose square is within range.
template <typename R>
TORCHDET_LANE Complex<R> reciprocal(Complex<R> x) {
  const R inverse_square = R(ScalarOf<R>(1)) / fma(x.re, x.re, x.im * x.im);
  return {x.re * inverse_square, -x.im * inverse_square};
}

// a / pivot from the reciprocal of the pivot, all of moderate size. One Newton correction of a *
// inverse: the quotient of equal numbers is exactly 1, so that equal rows eliminate to exactly 0,
// as with a true division.
template <typename V>
TORCHDET_LANE V corrected_quotient(V a, V pivot, V inverse) {
  const V quotient = a * inverse;
  return fma(fnma(quotient, pivot, a), inverse, quotient);
}

// Quotients a / pivot for many a with |a| <= |pivot| (in pivot_size). Both sides are lifted to the
// pivot's exponent first, because 1 / pivot overflows for a subnormal one. A zero pivot gives
// quotients 0: its column is zero.
template <typename V>
class PivotQuotient {
 public:
  TORCHDET_LANE explicit PivotQuotient(V pivot) {
    using R = RealOf<V>;
    using I = IntegerOf<V>;
    const R size = component_size(pivot);
    is_zero_ = equal(size, R(ScalarOf<V>(0)));
    constexpr int kReach = Format<ScalarOf<V>>::kMaxExponent - 3;
    const I e = maximum(minimum(-exponent_of(size), I(kReach)), I(-kReach));
    lift_ = exact_pow2<R>(e);
    pivot_ = pivot * lift_;
    inverse_ = reciprocal(select(is_zero_, one<V>(), pivot_));
  }
  TORCHDET_LANE V operator()(V a) const {
    return select(is_zero_, zero<V>(), corrected_quotient(a * lift_, pivot_, inverse_));
  }

 private:
  decltype(equal(RealOf<V>(), RealOf<V>())) is_zero_;
  RealOf<V> lift_;
  V pivot_, inverse_;
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
