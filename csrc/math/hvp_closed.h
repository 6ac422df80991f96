// Second derivative of det for n <= 4, without a factorisation.
//
// The derivative of a cofactor in direction Z is a sum of minors of order n - 2, each times an
// entry of Z:
//     H[Z]_ij = sum_{k != i, l != j} +- z_kl det(B without rows i, k and columns j, l).
// For n <= 4 a minor is a number, an entry or a difference of two products, so its error is at most
// eps s_1^(n-2) with s_1 the largest singular value. A change of B by n eps s_1, which is what an
// error is measured by, moves such a derivative by n eps s_1^(n-2) too, whatever the rank. (For n =
// 5 it is n eps s_1^2 s_2, and minors would have to be as good as that.)
#pragma once

#include "cofactor_closed.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// The pairs first < second of four numbers, in order, and the other two, third < fourth.
struct PairOfFour {
  int first, second, third, fourth;
  explicit constexpr PairOfFour(int number)
      : first(number < 3   ? 0
              : number < 5 ? 1
                           : 2),
        second(number < 3   ? number + 1
               : number < 5 ? number - 1
                            : 3),
        third(first > 0    ? 0
              : second > 1 ? 1
                           : 2),
        fourth(6 - first - second - third) {}
};

template <int N, typename V>
TORCHDET_LANE void cofactor_derivative_closed(const V* a, const V* z, V* h) {
  if constexpr (N == 1) {
    h[0] = zero<V>();
  } else if constexpr (N == 2) {
    cofactor_closed<2>(z, h);
  } else if constexpr (N == 3) {
    TORCHDET_UNROLL
    for (int i = 0; i < 3; ++i) {  // cyclic neighbours carry the sign (-1)^(i+j)
      const int p = (i + 1) % 3 * 3, q = (i + 2) % 3 * 3;
      TORCHDET_UNROLL
      for (int j = 0; j < 3; ++j) {
        const int s = (j + 1) % 3, t = (j + 2) % 3;
        const V x = fma(a[p + s], z[q + t], z[p + s] * a[q + t]);
        h[i * 3 + j] = fnma(a[p + t], z[q + s], fnma(z[p + t], a[q + s], x));
      }
    }
  } else {
    static_assert(N == 4);
    TORCHDET_UNROLL
    for (int t = 0; t < 16; ++t) {
      h[t] = zero<V>();
    }
    for_steps<0, 6, true>([&](auto rows) TORCHDET_LANE_LAMBDA {
      for_steps<0, 6, true>([&](auto columns) TORCHDET_LANE_LAMBDA {
        // Rows i < k and columns j < l, and the minor of the others, p < q and s < t.
        constexpr PairOfFour r(decltype(rows)::value), c(decltype(columns)::value);
        constexpr int i = r.first * 4, k = r.second * 4, p = r.third * 4, q = r.fourth * 4;
        constexpr int j = c.first, l = c.second, s = c.third, t = c.fourth;
        const V minor = fnma(a[p + t], a[q + s], a[p + s] * a[q + t]);
        const V x = (r.first + r.second + j + l) % 2 == 0 ? minor : -minor;
        h[i + j] = fma(x, z[k + l], h[i + j]);
        h[k + l] = fma(x, z[i + j], h[k + l]);
        h[i + l] = fnma(x, z[k + j], h[i + l]);
        h[k + j] = fnma(x, z[i + l], h[k + j]);
      });
    });
  }
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
