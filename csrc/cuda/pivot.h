// A pivot: its reciprocal, quotients by it, and its part in the determinant.
#pragma once

#include "results.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// What a quotient by a pivot takes; other threads may have it from shared memory.
template <typename V>
class alignas(sizeof(Wide)) PivotDivisor {
 public:
  using R = RealOf<V>;

  // a / u: of equal real numbers exactly 1 (math/scaled.h). Where u is 0, every a of an unfinished
  // row is 0, and so is the quotient.
  TORCHDET_DEVICE V quotient(V a) const {
    V lifted = a * lift_;
    if constexpr (kIsComplex<V>) {
      lifted = lifted * centre_;
    }
    return corrected_quotient(lifted, lifted_, inverse_);
  }

 protected:
  R lift_, centre_ = R(1);
  V lifted_, inverse_;
};

// Pivots of balanced matrices are below 2^(E/2), E being the largest exponent of the format, and so
// are those of all results that thread/algorithms.h trusts. Those below 2^-E/2 are lifted by
// 2^(E/2), which makes every subnormal number normal and keeps all reciprocals within the format.
//
// kAnySize: also larger pivots, to which they may grow at larger orders, which are lowered by as
// much. What else underflows with that is less than the rounding errors of an elimination with such
// a pivot. There are no quotients before refine().
template <typename V, bool kAnySize = false>
class Pivot : public PivotDivisor<V> {
 public:
  using R = RealOf<V>;
  using T = ScalarOf<V>;
  using F = Format<T>;
  static constexpr int kLift = (F::kMaxExponent + 1) / 2;

  TORCHDET_DEVICE explicit Pivot(V u) {
    const R size = component_size(u);
    is_zero = size == R(0);
    is_tiny_ = size < exact_pow2<R>(-kLift);
    lift_ = is_tiny_ ? exact_pow2<R>(kLift) : R(1);
    if constexpr (kAnySize) {
      is_huge_ = size >= exact_pow2<R>(kLift);
      lift_ = is_huge_ ? exact_pow2<R>(-kLift) : lift_;
    }
    lifted_ = select(is_zero, one<V>(), u * lift_);
    if constexpr (kIsComplex<V>) {  // brought to [1, 2), so that its square is within the format
      exponent_ = static_cast<int>(exponent_of<true>(component_size(lifted_)));
      centre_ = exact_pow2<R>(IntegerOf<R>(-exponent_));
      lifted_ = lifted_ * centre_;
      const R square = fma(lifted_.re, lifted_.re, lifted_.im * lifted_.im);
      const R factor = refined(square, approximate_reciprocal(square));
      inverse_ = {lifted_.re * factor, -lifted_.im * factor};
    } else {
      inverse_ = approximate_reciprocal(lifted_);
      if constexpr (!kAnySize) {
        inverse_ = refined(lifted_, inverse_);
      }
    }
  }

  // The rest of the reciprocal, here, where there is time, and not where it is first used: the
  // instruction that approximates it has been on its way.
  TORCHDET_DEVICE void refine() {
    if constexpr (kIsComplex<V>) {
      compute_here(inverse_.re);
      compute_here(inverse_.im);
    } else {
      compute_here(inverse_);
      inverse_ = refined(lifted_, inverse_);
      compute_here(inverse_);
    }
  }

  // u = mantissa 2^exponent with the larger component of the mantissa in [1, 2); of zero, 1.
  TORCHDET_DEVICE V mantissa() const {
    if constexpr (kIsComplex<V>) {
      return lifted_;
    } else {
      using I = IntegerOf<R>;
      const I kept = std::numeric_limits<I>::min() | ((I(1) << F::kFractionBits) - 1);
      return from_bits((bits_of(lifted_) & kept) | bits_of(R(1)));
    }
  }
  TORCHDET_DEVICE int exponent() const {
    if constexpr (kIsComplex<V>) {
      return exponent_ - lift_exponent();
    } else {
      return static_cast<int>(exponent_of_normal(lifted_)) - lift_exponent();
    }
  }

  bool is_zero;

 private:
  TORCHDET_DEVICE int lift_exponent() const {
    return is_tiny_ ? kLift : kAnySize && is_huge_ ? -kLift : 0;
  }
  // exponent_of<true> for numbers that are not zero.
  TORCHDET_DEVICE static IntegerOf<R> exponent_of_normal(R x) {
    return (bits_of(abs(x)) >> F::kFractionBits) - F::kMaxExponent;
  }
  // 1 / x from y, about 1 / x: each Newton step doubles the bits that are right.
  TORCHDET_DEVICE static R refined(R x, R y) {
    TORCHDET_UNROLL
    for (int step = 0; step < (sizeof(R) == 4 ? 1 : 2); ++step) {
      y = fma(fnma(x, y, R(1)), y, y);
    }
    return y;
  }

  using PivotDivisor<V>::lift_, PivotDivisor<V>::centre_, PivotDivisor<V>::lifted_,
      PivotDivisor<V>::inverse_;
  bool is_tiny_, is_huge_ = false;
  int exponent_ = 0;
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
