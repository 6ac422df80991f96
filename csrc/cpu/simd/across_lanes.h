// What one lane of a pack learns of the others: masks as bits, exchanges, sums and the like.
#pragma once

#include "vec.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// One bit per lane.
template <int B, int W>
TORCHDET_LANE uint64_t lane_bits(Mask<B, W> mask) {
  uint64_t bits = 0;
  for (int i = 0; i < W; ++i) {
    bits |= static_cast<uint64_t>(mask.raw[i] & 1) << i;
  }
  return bits;
}
// clang-format off
#if TORCHDET_VECTOR_BYTES == 64
TORCHDET_LANE uint64_t lane_bits(Mask<64, 16> mask) { return mask.raw; }
TORCHDET_LANE uint64_t lane_bits(Mask<64, 8> mask) { return mask.raw; }
#elif TORCHDET_VECTOR_BYTES == 32
TORCHDET_LANE uint64_t lane_bits(Mask<32, 8> mask) { return static_cast<unsigned>(_mm256_movemask_ps((__m256)mask.raw)); }
TORCHDET_LANE uint64_t lane_bits(Mask<32, 4> mask) { return static_cast<unsigned>(_mm256_movemask_pd((__m256d)mask.raw)); }
#endif
// clang-format on

// The mask whose bit `lane` is that of `bits`; the type of pack decides what kind of mask.
template <typename I, int W>
TORCHDET_LANE MaskOf<I, W> mask_of_bits(uint64_t bits, Vec<I, W>) {
#if TORCHDET_VECTOR_BYTES == 64
  if constexpr (W * sizeof(I) == 64) {
    return {static_cast<decltype(MaskOf<I, W>::raw)>(bits)};
  } else
#endif
  {
    typename Vec<I, W>::Raw bit{};
    for (int i = 0; i < W; ++i) {
      bit[i] = I(1) << i;
    }
    const Vec<I, W> lane_bit(bit);
    return equal(Vec<I, W>(static_cast<I>(bits)) & lane_bit, lane_bit);
  }
}

// Lane i receives lane i ^ S.
template <int S, typename T, int W, int... L>
TORCHDET_LANE Vec<T, W> swap_lanes(Vec<T, W> x, std::integer_sequence<int, L...>) {
  return Vec<T, W>(__builtin_shufflevector(x.raw, x.raw, (L ^ S)...));
}
template <int S, typename T, int W>
TORCHDET_LANE Vec<T, W> swap_lanes(Vec<T, W> x) {
  return swap_lanes<S>(x, std::make_integer_sequence<int, W>());
}
template <int S, typename R>
TORCHDET_LANE Complex<R> swap_lanes(Complex<R> x) {
  return {swap_lanes<S>(x.re), swap_lanes<S>(x.im)};
}

// x_0 o x_1 o .. of all lanes, in every lane; o commutes.
template <int S, typename V, typename Operation>
TORCHDET_LANE V fold_lanes(V x, Operation operation) {
  if constexpr (S == 0) {
    return x;
  } else {
    return fold_lanes<S / 2>(operation(x, swap_lanes<S>(x)), operation);
  }
}
template <typename T, int W, typename Operation>
TORCHDET_LANE Vec<T, W> fold_lanes(Vec<T, W> x, Operation operation) {
  return fold_lanes<W / 2>(x, operation);
}
template <typename R, typename Operation>
TORCHDET_LANE Complex<R> fold_lanes(Complex<R> x, Operation operation) {
  return fold_lanes<LaneTraits<R>::kWidth / 2>(x, operation);
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
