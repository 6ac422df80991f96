// Exponents of determinants whose mantissa is zero or NaN.
#pragma once

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

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
