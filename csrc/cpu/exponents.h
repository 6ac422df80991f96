// Exponents of determinants: those of zero and NaN, and what they take from derivatives.
#pragma once

#include <algorithm>

#include "../math/scaled.h"
#include "../problem.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// Gives matrix b its exponent where the mantissa that has been written is 0 or NaN, since that must
// not depend on how these came about. For 0 it is the one of s^n, s a power of two above the
// largest entry, with which the derivatives of the mantissa are in range; for NaN it is 0.
template <typename T, int kParts>
[[gnu::noinline]] void rewrite_exponent(const Problem& p, int64_t b) {
  const T* const mantissa = static_cast<const T*>(p.determinant) + b * kParts;
  const T last = mantissa[kParts - 1];
  const bool is_number = *mantissa == *mantissa && last == last;
  if (is_number && (*mantissa != 0 || last != 0)) {
    return;
  }
  const T* const from = static_cast<const T*>(p.A.data) + p.A.offset(b) * kParts;
  T largest = 0;
  for (int64_t i = 0; i < p.n; ++i) {
    for (int64_t j = 0; j < p.n; ++j) {
      const T* const entry = from + (i * p.A.row_stride + j * p.A.column_stride) * kParts;
      for (int part = 0; part < kParts; ++part) {
        largest = maximum(largest, abs(entry[part]));
      }
    }
  }
  const T exponent = static_cast<T>(p.n) * static_cast<T>(exponent_of(largest) + 1);
  static_cast<T*>(p.logabsdet)[b] = is_number && largest != 0 ? exponent : T(0);
}

// What is taken from the exponents of a result: of any number a whole one that can be added to.
template <typename T>
TORCHDET_LANE typename Format<T>::Integer shift_of(const Problem& p, int64_t b) {
  using Integer = typename Format<T>::Integer;
  constexpr T kMost = -kZeroExponent;
  if (p.shift == nullptr) {
    return 0;
  }
  const T shift = static_cast<const T*>(p.shift)[b];
  return shift != shift ? 0 : static_cast<Integer>(std::clamp(shift, -kMost, kMost));
}

// The same for the matrices of a pack; lanes beyond the last one repeat it.
template <typename V>
TORCHDET_LANE IntegerOf<V> shifts_of(const Problem& p, int64_t first, int lanes) {
  typename IntegerOf<V>::Raw shifts{};
  if (p.shift != nullptr) {
    for (int lane = 0; lane < LaneTraits<V>::kWidth; ++lane) {
      shifts[lane] = shift_of<ScalarOf<V>>(p, first + std::min(lane, lanes - 1));
    }
  }
  return IntegerOf<V>(shifts);
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
