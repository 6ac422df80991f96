// What a search for a pivot compares, where the one that holds it is among the places of a list.
#pragma once

#include "results.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// The leading bits of the size of an entry, rounded up, with its place in the last ones: kLast is
// the last place, 2^b - 1. Rounding up keeps every number but 0 above 0; multipliers are at most
// 1 + 2^(b - 23) (float), 1 + 2^(b - 20) (double). Of equal keys the first place wins. NaN, of
// which a GPU makes 0x7fffffff, must not round up to the sign bit: the least of all keys.
template <uint32_t kLast, typename R>
TORCHDET_DEVICE int32_t place_key(R size, int place) {
  static_assert((kLast & (kLast + 1)) == 0);
  uint32_t bits;
  if constexpr (sizeof(R) == 4) {
    bits = static_cast<uint32_t>(bits_of(size));
  } else {
    bits = static_cast<uint32_t>((static_cast<uint64_t>(bits_of(size)) + 0xffffffff) >> 32);
  }
  constexpr uint32_t kMost = 0x7fffffff & ~kLast;
  return static_cast<int32_t>(((minimum(bits, kMost) + kLast) & ~kLast) | (kLast - place));
}
template <uint32_t kLast>
TORCHDET_DEVICE int place_of_key(int32_t key) {
  return static_cast<int>(kLast - (key & kLast));
}
// Below every key.
constexpr int32_t kNoKey = std::numeric_limits<int32_t>::min();

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
