// What a forward pass of the class "large" keeps for its backward pass, so that both take one LU:
// the factors of B^T, as the LU has left them, and integers. In a determinant's factors s
// stands in the place of the last pivot S (inverse_hvp.h), so that the backward pass has nothing to
// change in them: what is kept is never written to again.
//
// The integers are state and S, the exchanges of rows, as torch counts them, and for each k the
// exponents of row and column k in the two halves of one. Whatever they are, no exchange leads out
// of the matrix. Where they cannot come from the forward pass of the same function, the LDU starts
// from A.
#pragma once

#include "space.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// So many integers are kept of a matrix that any operator keeps (../../select.h).
static_assert(largest_block(Op::kDetBackward, Dtype::kComplexDouble) + 1 >= kLeastFactors);

// The integers of matrix b. Element: int32_t, or const int32_t.
template <typename Element>
class LargeIntegers {
 public:
  TORCHDET_DEVICE LargeIntegers(Element* of_all, int n, int64_t b)
      : at_(of_all + b * count_of_factor_integers(n)), n_(n) {}

  TORCHDET_DEVICE Element& exchange(int k) const { return at_[kNumbers + k]; }

  // Of the row and of the column.
  template <typename I>
  TORCHDET_DEVICE void set_exponents(int k, I row, I column) const {
    at_[kNumbers + n_ + k] = static_cast<int32_t>(static_cast<uint32_t>(row) << 16 |
                                                  (static_cast<uint32_t>(column) & 0xffff));
  }
  TORCHDET_DEVICE int row_exponent(int k) const { return at_[kNumbers + n_ + k] >> 16; }
  TORCHDET_DEVICE int column_exponent(int k) const {
    return static_cast<int16_t>(at_[kNumbers + n_ + k]);
  }

  // of_logarithm: S is in its place.
  TORCHDET_DEVICE void set_state(bool of_logarithm, bool is_balanced, bool is_finite) const {
    at_[0] = kKept | (of_logarithm ? kOfLogarithm : 0) | (is_balanced ? kBalanced : 0) |
             (is_finite ? kFinite : 0);
  }
  TORCHDET_DEVICE bool are_of(bool of_logarithm) const {
    return (at_[0] & ~(kBalanced | kFinite)) == (kKept | (of_logarithm ? kOfLogarithm : 0));
  }
  TORCHDET_DEVICE bool is_balanced() const { return (at_[0] & kBalanced) != 0; }
  TORCHDET_DEVICE bool is_finite() const { return (at_[0] & kFinite) != 0; }

  template <typename V>
  TORCHDET_DEVICE void set_last_pivot(V S) const {
    if constexpr (kIsComplex<V>) {
      set_number(1, S.re);
      set_number(1 + kWords<RealOf<V>>, S.im);
    } else {
      set_number(1, S);
    }
  }
  template <typename V>
  TORCHDET_DEVICE V last_pivot() const {
    if constexpr (kIsComplex<V>) {
      return {number<RealOf<V>>(1), number<RealOf<V>>(1 + kWords<RealOf<V>>)};
    } else {
      return number<V>(1);
    }
  }

  // All of them: 2 n + 5 are in use, no more than there are from n = 3 on.
  TORCHDET_DEVICE int count() const { return static_cast<int>(count_of_factor_integers(n_)); }
  TORCHDET_DEVICE void clear(int k) const { at_[k] = 0; }

 private:
  // So many integers are the state and S.
  static constexpr int kNumbers = 1 + sizeof(Complex<double>) / sizeof(int32_t);
  static constexpr int kFinite = 1, kBalanced = 2, kOfLogarithm = 4, kKept = 1 << 8;
  template <typename R>
  static constexpr int kWords = sizeof(R) / sizeof(int32_t);

  template <typename R>
  TORCHDET_DEVICE void set_number(int at, R x) const {
    const auto bits = bits_of(x);
    at_[at] = static_cast<int32_t>(bits);
    if constexpr (kWords<R> == 2) {
      at_[at + 1] = static_cast<int32_t>(bits >> 32);
    }
  }
  template <typename R>
  TORCHDET_DEVICE R number(int at) const {
    if constexpr (kWords<R> == 2) {
      return from_bits(int64_t(at_[at + 1]) << 32 | static_cast<uint32_t>(at_[at]));
    } else {
      return from_bits(at_[at]);
    }
  }

  Element* const at_;
  const int n_;
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
