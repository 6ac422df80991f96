// Sign and logarithm of a determinant from its mantissa and exponent, one matrix at a time.
#pragma once

#include <cmath>
#include <numbers>

#include "../math/lane.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// log(m 2^e), through double for float. m in [1, 2) is moved around 1 so that determinants near 1
// do not cancel.
template <typename T>
inline T log_scaled(T m, typename Format<T>::Integer e) {
  double mantissa = m, exponent = static_cast<double>(e);
  if (mantissa > std::numbers::sqrt2) {
    mantissa *= 0.5;
    exponent += 1;
  }
  return static_cast<T>(std::log(mantissa) + exponent * std::numbers::ln2);
}

// sign(m) and log |m 2^e|.
template <typename T>
inline void sign_and_log(T m, typename Format<T>::Integer e, T& sign, T& logabs) {
  sign = m > 0 ? T(1) : m < 0 ? T(-1) : m;
  logabs = log_scaled(std::abs(m), e);
}
template <typename T>
inline void sign_and_log(Complex<T> m, typename Format<T>::Integer e, Complex<T>& sign, T& logabs) {
  const T size = std::hypot(m.re, m.im);
  sign = size == 0 ? Complex<T>(T(0)) : Complex<T>(m.re / size, m.im / size);
  logabs = log_scaled(size, e);
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
