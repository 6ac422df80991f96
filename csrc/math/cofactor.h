// Cofactors of B from P B = L U without a division by a pivot.
//
// C(XY) = C(X) C(Y), and C(L) = L^-T for unit triangular L, give
//     C(B) = sgn(P) P^T L^-T C(U). (1)
// With u_k = U_kk, pre_i = prod_{k<i} u_k and suf_j = prod_{k>j} u_k, C(U) is lower triangular,
//     C(U)_ji = (-1)^(i+j) pre_i suf_j h_ij   (i <= j), (2)
// where h_ij is the determinant of the Hessenberg matrix U[i..j-1, i+1..j]. Expanding it along its
// last column,
//     h_ii = 1,   h_ij = sum_{r=i}^{j-1} U_rj t_r,   t_r = h_ir prod_{r<k<j} (-u_k), (3)
// and from j to j + 1 every t_r is multiplied by -u_j while t_j = h_ij joins. No step divides by
// u_k, so a zero or tiny pivot needs no branch and no threshold wherever it falls, and every rank
// comes out right.
//
// Range: column i carries one exponent for all its t_r, corrected when the bound M <- max(M |u_j|,
// |h_ij|) leaves the middle of the format; the power of two rides on the factor -u_j. pre and suf
// are mantissa and exponent. The column is brought to one common exponent before the solve with
// L^T, whose entries are at most 1.
#pragma once

#include "lu.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename V>
struct ProductChain {
  Scaled<V> before[kMaxLaneOrder];  // pre_i, times the sign of the permutation
  Scaled<V> after[kMaxLaneOrder];   // suf_j
};

// Where the bound of the terms t_r lies outside [2^-30, 2^30], brings it to [1, 2): scales the
// factor that the old terms are multiplied by next and the newest term, and keeps account in the
// exponent.
template <typename V>
TORCHDET_LANE void recentre(RealOf<V>& bound, V& factor, V& newest, IntegerOf<V>& exponent) {
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  using F = Format<ScalarOf<V>>;
  const I e = exponent_of(bound);
  const auto outside = mask_or(greater(e, I(29)), greater(I(-30), e));
  const I wanted = select(outside, select(equal(bound, R(ScalarOf<V>(0))), I(0), -e), I(0));
  const I shift = maximum(minimum(wanted, I(F::kMaxExponent)), I(F::kMinExponent));
  const R power = exact_pow2<R>(shift);
  bound = bound * power;
  factor = factor * power;
  newest = newest * power;
  exponent = exponent - shift;
}

// K columns of C(U), starting at column `first`, times L^-T: K columns of y = sgn L^-T C(U)
// 2^-column_exponent. The columns of y hold first h, then the solution: the fewer arrays, the more
// of the tile stays in the L1 cache.
template <int K, int N, typename V>
TORCHDET_LANE void solve_columns(const V* lu, int n_runtime, const ProductChain<V>& chain,
                                 int first, V* y, IntegerOf<V>* column_exponent) {
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  constexpr ScalarOf<V> kCentre = ScalarOf<V>(1 << 30);
  const int n = N > 0 ? N : n_runtime;
  const int s = tile_stride(n);
  const R zero_real = R(ScalarOf<V>(0));
  V t[kMaxLaneOrder][K];
  I h_exponent[kMaxLaneOrder][K];
  V factor[K];
  R bound[K];
  I exponent[K], common[K];
  for (int q = 0; q < K; ++q) {
    factor[q] = one<V>();
    bound[q] = R(ScalarOf<V>(1));
    exponent[q] = I(0);
    common[q] = I(kZeroExponent);
  }
  for (int j = first; j < n; ++j) {
    V sum[K];
    for (int q = 0; q < K; ++q) {
      sum[q] = zero<V>();
      if (j == first + q) {  // h_ii = 1 starts the column; what bound and exponent say of its zero
                             // terms is void
        sum[q] = one<V>();
        bound[q] = zero_real;
        exponent[q] = I(0);
      }
    }
    if (j > first) {  // (3); factors of step j - 1 are applied as the terms are read
      for (int r = first; r < j - 1; ++r) {
        const V u = lu[r * s + j];
        for (int q = 0; q < K; ++q) {
          t[r][q] = t[r][q] * factor[q];
          sum[q] = fma(u, t[r][q], sum[q]);
        }
      }
      const V u = lu[(j - 1) * s + j];
      for (int q = 0; q < K; ++q) {
        sum[q] = fma(u, t[j - 1][q], sum[q]);
      }
    }
    const V pivot = lu[j * s + j];
    const R pivot_magnitude = component_size(pivot);
    R largest = zero_real, smallest = R(kCentre);
    for (int q = 0; q < K; ++q) {
      const V h = sum[q] * chain.after[j].mantissa;
      y[j * s + first + q] = h;
      h_exponent[j][q] = exponent[q] + chain.after[j].exponent;
      // For a subnormal h this is an upper bound, which serves as well.
      const I e = exponent_of<true>(component_size(h));
      common[q] = maximum(common[q], e + h_exponent[j][q]);
      bound[q] = maximum(bound[q] * pivot_magnitude, component_size(sum[q]));
      largest = maximum(largest, bound[q]);
      smallest = minimum(smallest, bound[q]);
      factor[q] = -pivot;
      t[j][q] = sum[q];
    }
    if (any(mask_or(greater(largest, R(kCentre)), greater(R(1 / kCentre), smallest)))) {
      for (int q = 0; q < K; ++q) {
        recentre(bound[q], factor[q], t[j][q], exponent[q]);
      }
    }
  }
  for (int q = 0; q < K; ++q) {
    common[q] = select(greater(I(kZeroExponentBound), common[q]), I(0), common[q]);
    column_exponent[first + q] = common[q] + chain.before[first + q].exponent;
  }
  for (int r = n - 1; r >= 0; --r) {  // (1): x = L^-T c, from the last row up
    V x[K];
    for (int q = 0; q < K; ++q) {
      x[q] = zero<V>();
      if (r >= first + q) {
        const V h = y[r * s + first + q];
        const V signed_h = (r - first - q) % 2 == 0 ? h : -h;
        x[q] =
            scale_pow2(signed_h, h_exponent[r][q] - common[q]) * chain.before[first + q].mantissa;
      }
    }
    const V* below = y + (r + 1) * s + first;
    const V* l = lu + (r + 1) * s + r;
    for (int k = r + 1; k < n; ++k, below += s, l += s) {
      for (int q = 0; q < K; ++q) {
        x[q] = fnma(*l, below[q], x[q]);
      }
    }
    for (int q = 0; q < K; ++q) {
      y[r * s + first + q] = x[q];
    }
  }
}

// Closed forms of the cofactors for n <= 3: sums of at most two products, within 1.5 units each.
template <int N, typename V>
TORCHDET_LANE void cofactor_closed(const V* a, V* y) {
  if constexpr (N == 1) {
    y[0] = one<V>();
  } else if constexpr (N == 2) {
    y[0] = a[3];
    y[1] = -a[2];
    y[2] = -a[1];
    y[3] = a[0];
  } else {
    static_assert(N == 3);
    for (int i = 0; i < 3; ++i) {  // cyclic neighbours carry the sign (-1)^(i+j)
      const V* p = a + (i + 1) % 3 * 3;
      const V* q = a + (i + 2) % 3 * 3;
      for (int j = 0; j < 3; ++j) {
        const int s = (j + 1) % 3, t = (j + 2) % 3;
        y[i * 3 + j] = difference_of_products(p[s], q[t], p[t], q[s]);
      }
    }
  }
}

// y 2^column_exponent = P C(B) for the equilibrated matrix in a, with rows in the order of `rows`,
// and det(B). a is overwritten. rows.exponent comes in as the equilibration exponents and goes out
// in the order of the rows.
template <int N, typename V>
TORCHDET_LANE Scaled<V> cofactors(V* a, int n_runtime, RowLabels<V> rows, V* y,
                                  IntegerOf<V>* column_exponent) {
  using I = IntegerOf<V>;
  const int n = N > 0 ? N : n_runtime;
  if constexpr (N > 0 && N <= 3) {
    cofactor_closed<N>(a, y);
    for (int i = 0; i < n; ++i) {
      rows.index[i] = I(i);
      column_exponent[i] = I(0);
    }
    return determinant<N>(a, n);
  } else {
    const int s = tile_stride(n);
    const RealOf<V> sign = factor_lu<N, true>(a, n, rows);
    ProductChain<V> chain;
    chain.before[0] = scaled_one<V>();
    chain.before[0].mantissa = chain.before[0].mantissa * sign;
    chain.after[n - 1] = scaled_one<V>();
    for (int k = 1; k < n; ++k) {
      chain.before[k] = chain.before[k - 1] * a[(k - 1) * s + k - 1];
      chain.after[n - 1 - k] = chain.after[n - k] * a[(n - k) * s + n - k];
    }
    constexpr int kColumns = kIsComplex<V> ? 2 : 4;
    int i = 0;
    for (; i + kColumns <= n; i += kColumns) {
      solve_columns<kColumns, N>(a, n, chain, i, y, column_exponent);
    }
    for (; i < n; ++i) {
      solve_columns<1, N>(a, n, chain, i, y, column_exponent);
    }
    return chain.before[n - 1] * a[(n - 1) * (s + 1)];
  }
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
