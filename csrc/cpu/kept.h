// What the forward pass keeps for the backward pass: of a matrix n x n numbers, and integers.
//
// In the classes "lane" and "rows" the numbers are the gradient, conj(C(A)) or conj(A^-T), without
// the power of two that is the one integer. Backward multiplies them by grad. The product is as
// good as one computed from A as long as no number has lost bits to the ends of the format. A
// matrix whose gradient has such numbers (kNotKept) is left to the kernel that computes it from A.
//
// Above, the numbers are P B Q = L D U of the equilibrated matrix, as blocked_lu.h has it, and the
// integers the permutations and the equilibration. kNotKept where the rank is at most n - 2.
#pragma once

#include "../math/equilibrate.h"
#include "../problem.h"
#include "../size_class.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// The one integer that goes with a gradient, and zeros where there is room for more.
inline int32_t kept_exponent(const Problem& p, int64_t b) {
  return p.integers[b * kept_integers(p.n)];
}
inline void keep_exponent(const Problem& p, int64_t b, int64_t exponent) {
  int32_t* const integers = p.integers + b * kept_integers(p.n);
  std::fill(integers, integers + kept_integers(p.n), 0);
  *integers = static_cast<int32_t>(exponent);
}

// The integers that go with the factors of matrix b.
class KeptFactors {
 public:
  KeptFactors(const Problem& p, int64_t b)
      : n_(p.n), integers_(p.integers + b * kept_integers(p.n)) {}
  int32_t& sign() const { return integers_[0]; }  // of P and Q, or kNotKept
  int32_t& exchanged() const { return integers_[1]; }
  int32_t* rows() const { return integers_ + 2; }
  int32_t* row_exponents() const { return rows() + n_; }
  int32_t* column_exponents() const { return row_exponents() + n_; }
  // False for integers that no forward pass has written, and that would lead out of the matrix.
  bool are_in_range() const {
    const auto inside = [&](int32_t i) { return 0 <= i && i < n_; };
    bool all = inside(exchanged());
    for (int64_t k = 0; k < n_; ++k) {
      all = all && inside(rows()[k]);
    }
    return all;
  }

 private:
  int64_t n_;
  int32_t* integers_;
};

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
