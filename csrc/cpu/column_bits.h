// A set of columns of a matrix of the class "rows".
#pragma once

#include <cstdint>
#include <type_traits>

#include "vec.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// One bit per column, in one word to order 64.
constexpr int kOrderOfWord = 64;
template <int kOrder>
using ColumnBits = std::conditional_t<(kOrder > kOrderOfWord), unsigned __int128, uint64_t>;
TORCHDET_LANE int lowest_bit(uint64_t bits) {
  return __builtin_ctzll(bits);
}
TORCHDET_LANE int lowest_bit(unsigned __int128 bits) {
  const auto low = static_cast<uint64_t>(bits);
  return low != 0 ? __builtin_ctzll(low) : 64 + __builtin_ctzll(static_cast<uint64_t>(bits >> 64));
}
TORCHDET_LANE bool is_odd(uint64_t bits) {
  return __builtin_parityll(bits);
}
TORCHDET_LANE bool is_odd(unsigned __int128 bits) {
  return __builtin_parityll(static_cast<uint64_t>(bits) ^ static_cast<uint64_t>(bits >> 64));
}
TORCHDET_LANE int number_of(uint64_t bits) {
  return __builtin_popcountll(bits);
}
TORCHDET_LANE int number_of(unsigned __int128 bits) {
  return number_of(static_cast<uint64_t>(bits)) + number_of(static_cast<uint64_t>(bits >> 64));
}

// Stores the lanes of x that bits name side by side, and zeros in the rest of a pack.
#if TORCHDET_VECTOR_BYTES == 64
TORCHDET_LANE void store_chosen(float* to, Vec<float, 16> x, uint64_t bits) {
  const auto mask = static_cast<__mmask16>(bits);
  _mm512_storeu_ps(to, _mm512_maskz_compress_ps(mask, (__m512)x.raw));
}
TORCHDET_LANE void store_chosen(double* to, Vec<double, 8> x, uint64_t bits) {
  const auto mask = static_cast<__mmask8>(bits);
  _mm512_storeu_pd(to, _mm512_maskz_compress_pd(mask, (__m512d)x.raw));
}
#endif

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
