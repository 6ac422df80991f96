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

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
