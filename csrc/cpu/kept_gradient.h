// Gradients that the forward pass keeps for the backward pass: conj(C(A)) or conj(A^-T) as numbers
// times one power of two for each matrix. Backward multiplies them by grad.
//
// A product with grad is as good as one that is computed from A as long as no number has lost bits
// to the ends of the format. A matrix whose gradient has such numbers (kNotKept) is left to the
// kernel that computes it from A.
#pragma once

#include "../math/equilibrate.h"
#include "../problem.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// Whether the numbers of a gradient are normal, and far enough from overflow that the mantissa of
// grad cannot make them overflow.
template <typename V>
class KeptRange {
 public:
  using I = IntegerOf<V>;
  using F = Format<ScalarOf<V>>;

  TORCHDET_LANE KeptRange() : least_(largest()), most_(I(0)) {}

  // x times a power of two, and a mantissa, is y: zero for a zero, but for no other number.
  TORCHDET_LANE void look(V x, V y) {
    const I size = component_bits(y);
    least_ = minimum(least_, select(greater(component_bits(x), I(0)), size, least_));
    most_ = maximum(most_, size);
  }
  // True in the lanes where a number has left the range.
  TORCHDET_LANE auto left() const {
    return mask_or(greater(smallest_normal(), least_), greater(most_, largest()));
  }

 private:
  I least_, most_;

  TORCHDET_LANE static I smallest_normal() { return pattern_of_pow2<I, F>(F::kMinExponent); }
  TORCHDET_LANE static I largest() { return pattern_of_pow2<I, F>(F::kMaxExponent - 1); }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
