// What the forward pass keeps for the backward pass: of a matrix n x n numbers, and integers.
//
// To n = kLargestGradient it is the gradient, conj(C(A)) or conj(A^-T), without the power of two
// that is the one integer. Backward multiplies it by grad. The product is as good as one computed
// from A as long as no number has lost bits to the ends of the format.
//
// Above, in the class "rows", it is the equilibrated matrix after the first half of a Gauss-Jordan
// elimination (jordan.h), each pivot in its place, and the integers tell those places and the
// equilibration. In the class "blocked" it is P B Q = L D U of the equilibrated matrix, as
// blocked_lu.h has it, and the integers are the permutations and the equilibration.
//
// The first integer is kNotKept where that is of no use to the backward pass, which then starts
// from A. So it does where integers that no forward pass has written would lead out of the matrix.
#pragma once

#include "../problem.h"
#include "../size_class.h"
#include "row_equilibrate.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

inline int32_t* integers_of(const Problem& p, int64_t b) {
  return p.integers + b * kept_integers(p.n);
}

// The one integer that goes with a gradient.
inline int32_t kept_exponent(const Problem& p, int64_t b) {
  return *integers_of(p, b);
}
inline void keep_exponent(const Problem& p, int64_t b, int64_t exponent) {
  *integers_of(p, b) = static_cast<int32_t>(exponent);
}

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

// The integers that go with the first half of a Gauss-Jordan elimination: the sign of the
// permutation, and for each k the column of its pivot and the exponents of row and column k in one.
template <typename P>
class KeptGauss {
 public:
  using Integer = typename Frame<P>::Integer;
  KeptGauss(const Problem& p, int64_t b) : n_(p.n), integers_(integers_of(p, b)) {}

  // False where an exponent has no room.
  TORCHDET_LANE bool write(bool odd, const int32_t* columns, const Frame<P>& frame) const {
    Integer beyond = 0;
    for (int64_t k = 0; k < n_; ++k) {
      const Integer r = frame.rows()[k] + kBias, c = frame.columns()[k] + kBias;
      beyond |= (r | c) >> kExponentBits;
      integers_[1 + k] = static_cast<int32_t>(
          (static_cast<uint32_t>(c) << kExponentBits | static_cast<uint32_t>(r)) << kColumnBits |
          static_cast<uint32_t>(columns[k]));
    }
    integers_[0] = odd;
    std::fill(integers_ + 1 + n_, integers_ + kept_integers(n_), 0);
    return beyond == 0;
  }
  // False where no forward pass has written them, or kNotKept.
  TORCHDET_LANE bool read(bool& odd, int32_t* columns, const Frame<P>& frame) const {
    if (integers_[0] != 0 && integers_[0] != 1) {
      return false;
    }
    odd = integers_[0];
    bool inside = true;
    for (int64_t k = 0; k < n_; ++k) {
      const auto all = static_cast<uint32_t>(integers_[1 + k]);
      columns[k] = all & ((1 << kColumnBits) - 1);
      frame.rows()[k] = Integer(all >> kColumnBits & (2 * kBias - 1)) - kBias;
      frame.columns()[k] = Integer(all >> (kColumnBits + kExponentBits)) - kBias;
      inside = inside && columns[k] < n_;
    }
    return inside;
  }

 private:
  static constexpr int kColumnBits = 8, kExponentBits = 12;
  static constexpr Integer kBias = 1 << (kExponentBits - 1);
  int64_t n_;
  int32_t* integers_;
};

// The integers that go with factors.
class KeptFactors {
 public:
  KeptFactors(const Problem& p, int64_t b) : n_(p.n), integers_(integers_of(p, b)) {}
  int32_t& sign() const { return integers_[0]; }  // of P and Q, or kNotKept
  int32_t& exchanged() const { return integers_[1]; }
  int32_t* rows() const { return integers_ + 2; }
  int32_t* row_exponents() const { return rows() + n_; }
  int32_t* column_exponents() const { return row_exponents() + n_; }
  bool is_usable() const {
    const auto inside = [&](int32_t i) { return 0 <= i && i < n_; };
    bool all = sign() != kNotKept && inside(exchanged());
    for (int64_t k = 0; k < n_; ++k) {
      all = all && inside(rows()[k]);
    }
    return all;
  }

 private:
  int64_t n_;
  int32_t* integers_;
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
