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
// Range: where the pivots but the last are moderate, nothing can leave it. The other matrices of a
// pack are done again with exponents: column i carries one exponent for all its t_r, corrected when
// the bound M <- max(M |u_j|, |h_ij|) leaves the middle of the format; the power of two rides on
// the factor -u_j. pre and suf are mantissa and exponent. The column is brought to one common
// exponent before the solve with L^T, whose entries are at most 1, or 2^kBalance where B was left
// unscaled (equilibrate.h).
#pragma once

#include "cofactor_closed.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// Row r of x = L^-T c, from the rows below it, for K columns of y from `first` on; row r of c is
// c(r, q). (1) for r = n - 1 .. 0. n and first may be compile-time constants.
template <int K, typename Order, typename First, typename V, typename Start>
TORCHDET_LANE void solve_unit_transposed(const V* lu, int r, Order n, First first, V* y, Start c) {
  const int s = tile_stride(n);
  V x[K];
  TORCHDET_UNROLL
  for (int q = 0; q < K; ++q) {
    x[q] = r >= first + q ? c(r, q) : zero<V>();
  }
  TORCHDET_UNROLL
  for (int k = r + 1; k < n; ++k) {
    TORCHDET_UNROLL
    for (int q = 0; q < K; ++q) {
      x[q] = fnma(lu[k * s + r], y[k * s + first + q], x[q]);
    }
  }
  TORCHDET_UNROLL
  for (int q = 0; q < K; ++q) {
    y[r * s + first + q] = x[q];
  }
}

// K columns of sgn L^-T C(U), starting at column kFirst, for moderate pivots: before[i] is sgn
// pre_i, after[j] is suf_j.
template <int K, int N, int kFirst, typename V>
TORCHDET_LANE void moderate_columns(const V* lu, const V* before, const V* after, V* y) {
  constexpr int s = tile_stride(N);
  constexpr bool kUnroll = kIsUnrolled<N, V>;
  V t[N][K], h[N][K];
  for_steps<kFirst, N, kUnroll>([&](auto step) TORCHDET_LANE_LAMBDA {  // (3)
    const int j = step;
    TORCHDET_UNROLL
    for (int q = 0; q < K; ++q) {
      h[j][q] = j == kFirst + q ? one<V>() : zero<V>();
    }
    TORCHDET_UNROLL
    for (int r = kFirst; r < j; ++r) {
      TORCHDET_UNROLL
      for (int q = 0; q < K; ++q) {
        if (kFirst + q <= r) {
          t[r][q] = r + 1 < j ? t[r][q] * -lu[(j - 1) * (s + 1)] : h[r][q];
          h[j][q] = fma(lu[r * s + j], t[r][q], h[j][q]);
        }
      }
    }
  });
  const std::integral_constant<int, N> n;
  const std::integral_constant<int, kFirst> first;
  for_steps<0, N, kUnroll>([&](auto step) TORCHDET_LANE_LAMBDA {
    const auto c_of = [&](int r, int q) TORCHDET_LANE_LAMBDA {
      const V c = h[r][q] * after[r] * before[kFirst + q];
      return (r - kFirst - q) % 2 == 0 ? c : -c;
    };
    solve_unit_transposed<K>(lu, N - 1 - step, n, first, y, c_of);
  });
}

// Where pivots are not moderate one copy of the code serves all orders, up to kMost. On CUDA each
// order has its own, as arrays are to stay in registers.
#ifdef __CUDACC__
template <int N>
constexpr int kMost = N;
#else
template <int N>
constexpr int kMost = kMaxLaneOrder;
#endif

template <int kMost, typename V>
struct ProductChain {
  Scaled<V> before[kMost];  // pre_i, times the sign of the permutation
  Scaled<V> after[kMost];   // suf_j
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
template <int K, int kMost, typename V>
TORCHDET_LANE void scaled_columns(const V* lu, int n, const ProductChain<kMost, V>& chain,
                                  int first, V* y, IntegerOf<V>* column_exponent) {
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  constexpr ScalarOf<V> kCentre = ScalarOf<V>(1 << 30);
  const int s = tile_stride(n);
  const R zero_real = R(ScalarOf<V>(0));
  V t[kMost][K];
  I h_exponent[kMost][K];
  V factor[K];
  R bound[K];
  I exponent[K], common[K];
  TORCHDET_UNROLL
  for (int q = 0; q < K; ++q) {
    factor[q] = one<V>();
    bound[q] = R(ScalarOf<V>(1));
    exponent[q] = I(0);
    common[q] = I(kZeroExponent);
  }
  TORCHDET_UNROLL
  for (int j = first; j < n; ++j) {
    V sum[K];
    TORCHDET_UNROLL
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
      TORCHDET_UNROLL
      for (int r = first; r < j - 1; ++r) {
        const V u = lu[r * s + j];
        TORCHDET_UNROLL
        for (int q = 0; q < K; ++q) {
          t[r][q] = t[r][q] * factor[q];
          sum[q] = fma(u, t[r][q], sum[q]);
        }
      }
      const V u = lu[(j - 1) * s + j];
      TORCHDET_UNROLL
      for (int q = 0; q < K; ++q) {
        sum[q] = fma(u, t[j - 1][q], sum[q]);
      }
    }
    const V pivot = lu[j * s + j];
    const R pivot_magnitude = component_size(pivot);
    R largest = zero_real, smallest = R(kCentre);
    TORCHDET_UNROLL
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
      TORCHDET_UNROLL
      for (int q = 0; q < K; ++q) {
        recentre(bound[q], factor[q], t[j][q], exponent[q]);
      }
    }
  }
  TORCHDET_UNROLL
  for (int q = 0; q < K; ++q) {
    common[q] = select(greater(I(kZeroExponentBound), common[q]), I(0), common[q]);
    column_exponent[first + q] = common[q] + chain.before[first + q].exponent;
  }
  const auto c_of = [&](int r, int q) TORCHDET_LANE_LAMBDA {
    const V h = y[r * s + first + q];
    const V signed_h = (r - first - q) % 2 == 0 ? h : -h;
    return scale_pow2(signed_h, h_exponent[r][q] - common[q]) * chain.before[first + q].mantissa;
  };
  TORCHDET_UNROLL
  for (int r = n - 1; r >= 0; --r) {
    solve_unit_transposed<K>(lu, r, n, first, y, c_of);
  }
}

// Columns of cofactors that are computed together.
template <typename V>
constexpr int kColumns = kIsComplex<V> ? kComplexCofactorColumns : kCofactorColumns;

// y 2^column_exponent = sgn L^-T C(U) for pivots of any size.
template <int kMost, typename V>
TORCHDET_COLD void scaled_cofactors(const V* lu, int n, RealOf<V> sign, V* y,
                                    IntegerOf<V>* column_exponent) {
  const int s = tile_stride(n);
  ProductChain<kMost, V> chain;
  chain.before[0] = scaled_one<V>();
  chain.before[0].mantissa = chain.before[0].mantissa * sign;
  chain.after[n - 1] = scaled_one<V>();
  TORCHDET_UNROLL
  for (int k = 1; k < n; ++k) {
    chain.before[k] = chain.before[k - 1] * lu[(k - 1) * (s + 1)];
    chain.after[n - 1 - k] = chain.after[n - k] * lu[(n - k) * (s + 1)];
  }
  constexpr int K = kColumns<V>;
  const int whole = n / K * K;
  TORCHDET_UNROLL
  for (int i = 0; i < whole; i += K) {
    scaled_columns<K>(lu, n, chain, i, y, column_exponent);
  }
  TORCHDET_UNROLL
  for (int i = whole; i < n; ++i) {
    scaled_columns<1>(lu, n, chain, i, y, column_exponent);
  }
}

// The same for moderate pivots, without exponents.
template <int N, typename V>
TORCHDET_LANE void moderate_cofactors(const V* lu, RealOf<V> sign, V* y) {
  constexpr int s = tile_stride(N);
  V before[N], after[N];
  before[0] = one<V>() * sign;
  after[N - 1] = one<V>();
  TORCHDET_UNROLL
  for (int k = 1; k < N; ++k) {
    before[k] = before[k - 1] * lu[(k - 1) * (s + 1)];
    after[N - 1 - k] = after[N - k] * lu[(N - k) * (s + 1)];
  }
  constexpr int K = kColumns<V>;
  for_steps<0, (N + K - 1) / K, true>([&](auto block) TORCHDET_LANE_LAMBDA {
    constexpr int first = decltype(block)::value * K;
    moderate_columns<std::min(K, N - first), N, first>(lu, before, after, y);
  });
}

// Row row_index[k] of y <- row k of x.
template <int N, typename V>
TORCHDET_LANE void restore_rows(const IntegerOf<V>* row_index, const V* x, V* y) {
  constexpr int s = tile_stride(N);
  TORCHDET_UNROLL
  for (int i = 0; i < N; ++i) {
    V row[N];
    TORCHDET_UNROLL
    for (int j = 0; j < N; ++j) {
      row[j] = x[j];
    }
    TORCHDET_UNROLL
    for (int k = 1; k < N; ++k) {
      const auto chosen = equal(row_index[k], IntegerOf<V>(i));
      TORCHDET_UNROLL
      for (int j = 0; j < N; ++j) {
        row[j] = select(chosen, x[k * s + j], row[j]);
      }
    }
    TORCHDET_UNROLL
    for (int j = 0; j < N; ++j) {
      y[i * s + j] = row[j];
    }
  }
}

// to[k] <- from[row_index[k]].
template <int N, typename I>
TORCHDET_LANE void permute_labels(const I* row_index, const I* from, I* to) {
  TORCHDET_UNROLL
  for (int k = 0; k < N; ++k) {
    to[k] = from[0];
    TORCHDET_UNROLL
    for (int i = 1; i < N; ++i) {
      to[k] = select(equal(row_index[k], I(i)), from[i], to[k]);
    }
  }
}

// What comes with cofactors.
template <typename V>
struct CofactorScale {
  Scaled<V> determinant;  // of B, where it is wanted, else 1
  bool has_exponents;     // column_exponent is not zero
};

// C(B) 2^-column_exponent for the equilibrated matrix B in a, which is overwritten, as are the
// weights of its rows: row k of x is row row_index[k] of it; in order where kHasClosedForm.
template <int N, typename V>
TORCHDET_LANE CofactorScale<V> cofactors(V* a, RealOf<V>* weight, V* x, IntegerOf<V>* row_index,
                                         IntegerOf<V>* column_exponent, bool wants_determinant) {
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  TORCHDET_UNROLL
  for (int i = 0; i < N; ++i) {
    column_exponent[i] = I(0);
  }
  if constexpr (kHasClosedForm<N, V>) {
    cofactor_closed<N>(a, x);
    return {wants_determinant ? Determinant<N, V>(a, weight).scaled() : scaled_one<V>(), false};
  } else {
    constexpr int s = tile_stride(N);
    const R sign = factor_lu<N, true>(a, row_index, weight);
    moderate_cofactors<N>(a, sign, x);
    // Pivots are moderate from above, as the entries of B are. With those before the last at least
    // 2^-m, m = 2/3 E / (N - 1) and E the largest exponent of the format, products of them stay
    // above 2^-(2/3 E), and a term that underflows all the same is nothing beside them.
    constexpr int kModerate = Format<ScalarOf<V>>::kMaxExponent * 2 / (3 * (N - 1));
    R smallest = component_size(a[0]);
    TORCHDET_UNROLL
    for (int k = 1; k + 1 < N; ++k) {
      smallest = minimum(smallest, component_size(a[k * (s + 1)]));
    }
    const auto tiny = greater(exact_pow2<R>(I(-kModerate)), smallest);
    const bool has_exponents = any(tiny);
    if (has_exponents) {
      V scaled[tile_size(N)];
      I exponent[N];
      scaled_cofactors<kMost<N>>(a, N, sign, scaled, exponent);
      TORCHDET_UNROLL
      for (int t = 0; t < tile_size(N); ++t) {
        x[t] = select(tiny, scaled[t], x[t]);
      }
      TORCHDET_UNROLL
      for (int j = 0; j < N; ++j) {
        column_exponent[j] = select(tiny, exponent[j], I(0));
      }
    }
    return {wants_determinant ? diagonal_product<N>(a, sign) : scaled_one<V>(), has_exponents};
  }
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
