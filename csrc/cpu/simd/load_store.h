// Runs of numbers, real or complex, between memory and packs.
#pragma once

#include <algorithm>

#include "vec.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename T>
TORCHDET_LANE void prefetch(const T* begin, int64_t count) {
  for (int64_t t = 0; t < count; t += kCacheLine / sizeof(T)) {
    __builtin_prefetch(begin + t);
  }
}

// The first count <= W numbers of a run, zeros after them.
template <typename R>
TORCHDET_LANE R load_numbers(const ScalarOf<R>* from, int64_t count, const R*) {
  constexpr int W = LaneTraits<R>::kWidth;
  using T = ScalarOf<R>;
  return count >= W ? load<T, W>(from) : load_first<T, W>(from, static_cast<int>(count));
}
template <typename T, int W, int... L>
TORCHDET_LANE Complex<Vec<T, W>> split_parts(Vec<T, W> a, Vec<T, W> b,
                                             std::integer_sequence<int, L...>) {
  return {Vec<T, W>(__builtin_shufflevector(a.raw, b.raw, (2 * L)...)),
          Vec<T, W>(__builtin_shufflevector(a.raw, b.raw, (2 * L + 1)...))};
}
template <typename R>
TORCHDET_LANE Complex<R> load_numbers(const ScalarOf<R>* from, int64_t count, const Complex<R>*) {
  constexpr int W = LaneTraits<R>::kWidth;
  const R* real = nullptr;
  const R a = load_numbers(from, std::min<int64_t>(2 * count, W), real);
  const R b = 2 * count > W ? load_numbers(from + W, 2 * count - W, real) : R(0);
  return split_parts(a, b, std::make_integer_sequence<int, W>());
}
template <typename T, int W>
TORCHDET_LANE void store_numbers(T* to, Vec<T, W> x, int64_t count) {
  if (count >= W) {
    store(to, x);
  } else {
    store_first(to, x, static_cast<int>(count));
  }
}
template <typename T, int W, int... L>
TORCHDET_LANE void store_numbers(T* to, Complex<Vec<T, W>> x, int64_t count,
                                 std::integer_sequence<int, L...>) {
  const Vec<T, W> a(
      __builtin_shufflevector(x.re.raw, x.im.raw, (L % 2 == 0 ? L / 2 : W + L / 2)...));
  const Vec<T, W> b(__builtin_shufflevector(x.re.raw, x.im.raw,
                                            (L % 2 == 0 ? W / 2 + L / 2 : W + W / 2 + L / 2)...));
  store_numbers(to, a, std::min<int64_t>(2 * count, W));
  if (2 * count > W) {
    store_numbers(to + W, b, 2 * count - W);
  }
}
template <typename T, int W>
TORCHDET_LANE void store_numbers(T* to, Complex<Vec<T, W>> x, int64_t count) {
  store_numbers(to, x, count, std::make_integer_sequence<int, W>());
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
