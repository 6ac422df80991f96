// Transposition between memory and packs.
//
// Shuffles of numbers are cheapest within segments of 16 bytes, which every instruction set has. So
// a pack is put together from segments of different rows as they are loaded, such that only the
// numbers within segments remain to be transposed, and is taken apart in the same way.
#pragma once

#include <utility>

#include "vec.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// Numbers in a segment.
template <typename T>
constexpr int kSegment = 16 / sizeof(T);

// The pack whose segment g lies at from(g), and back.
template <typename T, int W, typename From>
TORCHDET_LANE Vec<T, W> load_segments(From from) {
#if TORCHDET_VECTOR_BYTES >= 32
  const auto load_one = [&](int g) TORCHDET_LANE_LAMBDA {
    return _mm_loadu_ps(reinterpret_cast<const float*>(from(g)));
  };
#endif
#if TORCHDET_VECTOR_BYTES == 64
  __m512 x = _mm512_castps128_ps512(load_one(0));
  x = _mm512_insertf32x4(x, load_one(1), 1);
  x = _mm512_insertf32x4(x, load_one(2), 2);
  return (typename Vec<T, W>::Raw)_mm512_insertf32x4(x, load_one(3), 3);
#elif TORCHDET_VECTOR_BYTES == 32
  const __m256 x = _mm256_castps128_ps256(load_one(0));
  return (typename Vec<T, W>::Raw)_mm256_insertf128_ps(x, load_one(1), 1);
#else
  return load<T, W>(from(0));
#endif
}
template <typename T, int W, typename To>
TORCHDET_LANE void store_segments(Vec<T, W> x, To to) {
#if TORCHDET_VECTOR_BYTES >= 32
  const auto store_one = [&](int g, __m128 segment) TORCHDET_LANE_LAMBDA {
    _mm_storeu_ps(reinterpret_cast<float*>(to(g)), segment);
  };
#endif
#if TORCHDET_VECTOR_BYTES == 64
  store_one(0, _mm512_castps512_ps128((__m512)x.raw));
  store_one(1, _mm512_extractf32x4_ps((__m512)x.raw, 1));
  store_one(2, _mm512_extractf32x4_ps((__m512)x.raw, 2));
  store_one(3, _mm512_extractf32x4_ps((__m512)x.raw, 3));
#elif TORCHDET_VECTOR_BYTES == 32
  store_one(0, _mm256_castps256_ps128((__m256)x.raw));
  store_one(1, _mm256_extractf128_ps((__m256)x.raw, 1));
#else
  store(to(0), x);
#endif
}

// Within each segment, the numbers of the first (or second) halves of a and b in turn.
template <bool kSecond, typename T, int W, int... L>
TORCHDET_LANE Vec<T, W> interleave(Vec<T, W> a, Vec<T, W> b, std::integer_sequence<int, L...>) {
  constexpr int Q = kSegment<T>;
  return __builtin_shufflevector(
      a.raw, b.raw, ((L % 2 == 0 ? 0 : W) + L / Q * Q + L % Q / 2 + (kSecond ? Q / 2 : 0))...);
}

// Within segment g of all packs, number t of pack r and number r of pack t change places. Taking
// the halves of the list in turn, as a deck of cards is shuffled, log2 Q times, transposes Q x Q.
template <typename T, int W>
TORCHDET_LANE void transpose_segments(Vec<T, W> (&x)[kSegment<T>]) {
  constexpr int Q = kSegment<T>;
  constexpr auto lanes = std::make_integer_sequence<int, W>();
  for (int stage = 1; stage < Q; stage *= 2) {
    Vec<T, W> y[Q];
    for (int r = 0; r < Q / 2; ++r) {
      y[2 * r] = interleave<false>(x[r], x[r + Q / 2], lanes);
      y[2 * r + 1] = interleave<true>(x[r], x[r + Q / 2], lanes);
    }
    for (int r = 0; r < Q; ++r) {
      x[r] = y[r];
    }
  }
}

// The first (or second) half of a, then that of b.
template <bool kSecond, typename T, int W, int... L>
TORCHDET_LANE Vec<T, W> join_halves(Vec<T, W> a, Vec<T, W> b, std::integer_sequence<int, L...>) {
  return __builtin_shufflevector(a.raw, b.raw,
                                 ((L < W / 2 ? 0 : W / 2) + L + (kSecond ? W / 2 : 0))...);
}
// The first, third, .. (or second, fourth, ..) segments of a, then those of b.
template <bool kSecond, typename T, int W, int... L>
TORCHDET_LANE Vec<T, W> join_segments(Vec<T, W> a, Vec<T, W> b, std::integer_sequence<int, L...>) {
  constexpr int Q = kSegment<T>;
  return __builtin_shufflevector(a.raw, b.raw, (2 * (L / Q * Q) + L % Q + (kSecond ? Q : 0))...);
}

// W x W numbers: the segments by themselves, then the segments among each other.
template <typename T, int W>
TORCHDET_LANE void transpose(Vec<T, W> (&x)[W]) {
  constexpr int Q = kSegment<T>, kSegments = W / Q;
  constexpr auto lanes = std::make_integer_sequence<int, W>();
  Vec<T, W> y[kSegments][Q];
  for (int b = 0; b < kSegments; ++b) {
    for (int t = 0; t < Q; ++t) {
      y[b][t] = x[b * Q + t];
    }
    transpose_segments(y[b]);
  }
  for (int t = 0; t < Q; ++t) {
    if constexpr (kSegments == 1) {
      x[t] = y[0][t];
    } else if constexpr (kSegments == 2) {
      x[t] = join_halves<false>(y[0][t], y[1][t], lanes);
      x[Q + t] = join_halves<true>(y[0][t], y[1][t], lanes);
    } else {
      static_assert(kSegments == 4);
      const Vec<T, W> a = join_halves<false>(y[0][t], y[1][t], lanes);
      const Vec<T, W> b = join_halves<false>(y[2][t], y[3][t], lanes);
      const Vec<T, W> c = join_halves<true>(y[0][t], y[1][t], lanes);
      const Vec<T, W> d = join_halves<true>(y[2][t], y[3][t], lanes);
      x[t] = join_segments<false>(a, b, lanes);
      x[Q + t] = join_segments<true>(a, b, lanes);
      x[2 * Q + t] = join_segments<false>(c, d, lanes);
      x[3 * Q + t] = join_segments<true>(c, d, lanes);
    }
  }
}

// Lane i of x[t] is number t at from(i), for the W rows and the numbers of a segment; and back.
template <typename T, int W, typename From>
TORCHDET_LANE void load_transposed(From from, Vec<T, W> (&x)[kSegment<T>]) {
  constexpr int Q = kSegment<T>;
  for (int r = 0; r < Q; ++r) {
    x[r] = load_segments<T, W>([&](int g) TORCHDET_LANE_LAMBDA { return from(g * Q + r); });
  }
  transpose_segments(x);
}
template <typename T, int W, typename To>
TORCHDET_LANE void store_transposed(Vec<T, W> (&x)[kSegment<T>], To to) {
  constexpr int Q = kSegment<T>;
  transpose_segments(x);
  for (int r = 0; r < Q; ++r) {
    store_segments(x[r], [&](int g) TORCHDET_LANE_LAMBDA { return to(g * Q + r); });
  }
}
}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
