// Cofactors of small matrices from minors, without a pivot.
//
// n <= 3: entries, and differences of two products within 1.5 units each.
//
// n = 4, real: with the minors m of rows 0 and 1, columns p < q, and M of rows 2 and 3,
//     C_0j = +- (a_1p M_qr - a_1q M_pr + a_1r M_pq),   p < q < r the columns but j,
// and so on: C_1j of row 0 and M, C_2j of row 3 and m, C_3j of row 2 and m. Plain expansions fail
// near singular matrices because their minors do; these are within eps, whatever cancels in them
// (difference_of_products, where multiply-add is fused). So C_0j is within 5/2 eps of the sum of
// its terms' magnitudes. That sum is the product of a symmetric matrix of the |M_pq| with a row;
// its diagonal being 0, its norm is at most sqrt(3/4) of its Frobenius norm, sqrt(2) |M|, and |M|
// <= s_1 s_2, s_k being the singular values of A. The error of C, 3.1 eps |A|_F s_1 s_2 at the
// most, is about one unit of tests/units.py, 4 eps s_1 (s_1 s_2 + s_1 s_3 + 2 s_2 s_3) or more. As
// all terms of an entry scale alike with the rows and columns of A, this holds in every scaling of
// them.
//
// The parts of a complex minor are sums of two differences, which may cancel: near rank 1 that
// costs up to 1 / eps units.
#pragma once

#include "lu.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <int N, typename V>
constexpr bool kHasClosedForm = N <= 3 || (N == 4 && !kIsComplex<V> && kFusesMultiplyAdd);

// The minors [h][p][q], p < q, of rows 2h and 2h + 1 and columns p and q.
template <typename V>
TORCHDET_LANE void minors_of_order_2(const V* a, V (&minor)[2][4][4]) {
  TORCHDET_UNROLL
  for (int h = 0; h < 2; ++h) {
    const V *upper = a + 8 * h, *lower = upper + 4;
    TORCHDET_UNROLL
    for (int p = 0; p < 3; ++p) {
      TORCHDET_UNROLL
      for (int q = 1; q < 4; ++q) {
        if (p < q) {
          minor[h][p][q] = difference_of_products(upper[p], lower[q], upper[q], lower[p]);
        }
      }
    }
  }
}

template <typename V>
TORCHDET_LANE void cofactors_of_order_4(const V* a, const V (&minor)[2][4][4], V* y) {
  TORCHDET_UNROLL
  for (int i = 0; i < 4; ++i) {
    const V* row = a + 4 * (i ^ 1);
    TORCHDET_UNROLL
    for (int j = 0; j < 4; ++j) {
      const auto& m = minor[1 - i / 2];
      const int p = j == 0 ? 1 : 0, q = j < 2 ? 2 : 1, r = j < 3 ? 3 : 2;
      const bool is_even = (i + j) % 2 == 0;
      const V middle = row[q] * m[p][r];
      y[4 * i + j] = is_even ? fma(row[r], m[p][q], fma(row[p], m[q][r], -middle))
                             : fnma(row[r], m[p][q], fnma(row[p], m[q][r], middle));
    }
  }
}

// y = C(a).
template <int N, typename V>
TORCHDET_LANE void cofactor_closed(const V* a, V* y) {
  if constexpr (N == 1) {
    y[0] = one<V>();
  } else if constexpr (N == 2) {
    y[0] = a[3];
    y[1] = -a[2];
    y[2] = -a[1];
    y[3] = a[0];
  } else if constexpr (N == 3) {
    TORCHDET_UNROLL
    for (int i = 0; i < 3; ++i) {  // cyclic neighbours carry the sign (-1)^(i+j)
      const V* p = a + (i + 1) % 3 * 3;
      const V* q = a + (i + 2) % 3 * 3;
      TORCHDET_UNROLL
      for (int j = 0; j < 3; ++j) {
        const int s = (j + 1) % 3, t = (j + 2) % 3;
        y[i * 3 + j] = difference_of_products(p[s], q[t], p[t], q[s]);
      }
    }
  } else {
    static_assert(N == 4);
    V minor[2][4][4];
    minors_of_order_2(a, minor);
    cofactors_of_order_4(a, minor, y);
  }
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
