// LU with partial pivoting, P B = L U, and the determinant as mantissa and exponent.
//
// The pivot of a column is the entry that is largest beside the weight of its row (equilibrate.h).
// Rows are exchanged by selection: the pivot row u of step k is collected from the rows by masks,
// and the row it came from receives the old row k in the same pass that subtracts the multiples of
// u. A column whose candidates are all exactly zero gets multipliers 0 and a pivot 0, wherever it
// falls.
#pragma once

#include "equilibrate.h"
#include "scaled.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// What a lane-wise factorisation knows of its rows or columns, in pivoted order.
template <typename V>
struct Labels {
  IntegerOf<V>* index;     // original row or column now at position i
  IntegerOf<V>* exponent;  // its equilibration exponent
};

// One block of J columns of step k: exchange row k with row `pivot`, then, where kUpdate, subtract
// l_i times the pivot row. Rows stay in registers for the whole block.
template <int J, bool kUpdate, typename V>
TORCHDET_LANE void exchange_and_update(V* a, int n, int k, int j, IntegerOf<V> pivot) {
  using I = IntegerOf<V>;
  const int s = tile_stride(n);
  V* top = a + k * s + j;
  V old[J], u[J];
  TORCHDET_UNROLL
  for (int t = 0; t < J; ++t) {
    old[t] = u[t] = top[t];
  }
  TORCHDET_UNROLL
  for (int i = k + 1; i < n; ++i) {
    const auto chosen = equal(pivot, I(i));
    const V* row = a + i * s + j;
    TORCHDET_UNROLL
    for (int t = 0; t < J; ++t) {
      u[t] = select(chosen, row[t], u[t]);
    }
  }
  TORCHDET_UNROLL
  for (int t = 0; t < J; ++t) {
    top[t] = u[t];
  }
  TORCHDET_UNROLL
  for (int i = k + 1; i < n; ++i) {
    const auto chosen = equal(pivot, I(i));
    V* row = a + i * s + j;
    const V l = kUpdate ? a[i * s + k] : zero<V>();
    TORCHDET_UNROLL
    for (int t = 0; t < J; ++t) {
      const V x = select(chosen, old[t], row[t]);
      row[t] = kUpdate ? fnma(l, u[t], x) : x;
    }
  }
}

template <bool kUpdate, typename V>
TORCHDET_LANE void exchange_and_update_range(V* a, int n, int k, int begin, int end,
                                             IntegerOf<V> pivot) {
  constexpr int kBlock = kIsComplex<V> ? kComplexLuColumns : kLuColumns;
  int j = begin;
  for (; j + kBlock <= end; j += kBlock) {
    exchange_and_update<kBlock, kUpdate>(a, n, k, j, pivot);
  }
  if constexpr (kBlock == 8) {
    if (j + 4 <= end) {
      exchange_and_update<4, kUpdate>(a, n, k, j, pivot);
      j += 4;
    }
  }
  if (j + 2 <= end) {
    exchange_and_update<2, kUpdate>(a, n, k, j, pivot);
    j += 2;
  }
  if (j < end) {
    exchange_and_update<1, kUpdate>(a, n, k, j, pivot);
  }
}

template <typename T, typename I>
TORCHDET_LANE void exchange(T* x, int n, int k, I pivot) {
  const T old = x[k];
  T top = old;
  TORCHDET_UNROLL
  for (int i = k + 1; i < n; ++i) {
    const auto chosen = equal(pivot, I(i));
    top = select(chosen, x[i], top);
    x[i] = select(chosen, old, x[i]);
  }
  x[k] = top;
}

// a / pivot for |a| <= |pivot|; 0 where the pivot is 0. One division each is the shortest way from
// a pivot to the few quotients of a small matrix.
template <typename R>
class RealPivotDivision {
 public:
  TORCHDET_LANE explicit RealPivotDivision(R pivot)
      : is_zero_(equal(pivot, R(ScalarOf<R>(0)))), pivot_(pivot) {}
  TORCHDET_LANE R operator()(R a) const { return select(is_zero_, R(ScalarOf<R>(0)), a / pivot_); }

 private:
  decltype(equal(R(), R())) is_zero_;
  R pivot_;
};
template <typename V>
using PivotDivision =
    std::conditional_t<kIsComplex<V>, PivotQuotient<V>, RealPivotDivision<RealOf<V>>>;

// Factors a (N x N, row-major) in place: U on and above the diagonal, the multipliers of L below it
// (in pivoted order only with kKeepL; then row_index receives the original row of every position).
// weight: of the rows, overwritten. Returns the sign of the permutation.
template <int N, bool kKeepL, typename V>
TORCHDET_LANE RealOf<V> factor_lu(V* a, IntegerOf<V>* row_index, RealOf<V>* weight) {
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  constexpr int s = tile_stride(N);
  R sign = R(ScalarOf<V>(1));
  if constexpr (kKeepL) {
    TORCHDET_UNROLL
    for (int i = 0; i < N; ++i) {
      row_index[i] = I(i);
    }
  }
  for_steps<0, N - 1, kIsUnrolled<N, V>>([&](auto step) TORCHDET_LANE_LAMBDA {
    const int k = step;
    const auto size_of = [&](int i)
                             TORCHDET_LANE_LAMBDA { return pivot_size(a[i * s + k]) * weight[i]; };
    R best = size_of(k);
    I pivot = I(k);
    TORCHDET_UNROLL
    for (int i = k + 1; i < N; ++i) {
      const R size = size_of(i);
      const auto larger = greater(size, best);
      best = select(larger, size, best);
      pivot = select(larger, I(i), pivot);
    }
    sign = select(equal(pivot, I(k)), sign, -sign);
    exchange(weight, N, k, pivot);
    exchange_and_update<1, false>(a, N, k, k, pivot);
    const PivotDivision<V> quotient(a[k * s + k]);
    TORCHDET_UNROLL
    for (int i = k + 1; i < N; ++i) {
      a[i * s + k] = quotient(a[i * s + k]);
    }
    exchange_and_update_range<true>(a, N, k, k + 1, N, pivot);
    if constexpr (kKeepL) {
      exchange_and_update_range<false>(a, N, k, 0, k, pivot);
      exchange(row_index, N, k, pivot);
    }
  });
  return sign;
}

// det of a triangular factor: sign times the product of its diagonal, as mantissa and exponent. The
// mantissas are below 2 (2 sqrt(2) in modulus where complex), so N of them need no care.
template <int N, typename V>
TORCHDET_LANE Scaled<V> diagonal_product(const V* a, RealOf<V> sign) {
  using I = IntegerOf<V>;
  V mantissa = one<V>() * sign;
  I exponent = I(0);
  TORCHDET_UNROLL
  for (int k = 0; k < N; ++k) {
    const Scaled<V> d = normalise(a[k * (tile_stride(N) + 1)], I(0));
    mantissa = mantissa * d.mantissa;
    exponent = exponent + d.exponent;
  }
  return normalise(mantissa, exponent);
}

// Of the magnitudes of numbers, in all lanes. NaN passes, so it must not be among them, unless the
// matrix has a NaN or an infinity, which makes its result NaN in any case.
template <typename R>
TORCHDET_LANE bool all_normal(R least, R most) {
  using Limits = std::numeric_limits<ScalarOf<R>>;
  return !any(mask_or(greater(R(Limits::min()), least), greater(most, R(Limits::max()))));
}

// The same as a plain number where that is as good, in all lanes: no partial product is subnormal
// or out of range. Powers of two change no rounding then, so the bits are those of mantissa and
// exponent, which make a longer chain of operations. Not of complex numbers, one part of which may
// be far below the other.
template <int N, typename V>
TORCHDET_LANE bool plain_product(const V* a, RealOf<V> sign, V& product) {
  if constexpr (kIsComplex<V>) {
    return false;
  } else {
    product = sign * a[0];
    V least = abs(product), most = least;
    TORCHDET_UNROLL
    for (int k = 1; k < N; ++k) {
      product = product * a[k * (tile_stride(N) + 1)];
      // A partial product that has overflowed becomes NaN at a zero pivot. NaN as the first
      // argument leaves the second one, the infinity seen before.
      least = minimum(abs(product), least);
      most = maximum(abs(product), most);
    }
    return all_normal(least, most);
  }
}

// a b - c d within 1.5 units of the result where multiply-add is fused (Kahan; Jeannerod, Louvet
// and Muller, "Further analysis of Kahan's algorithm for the accurate computation of 2x2
// determinants", 2013).
template <typename R>
TORCHDET_LANE R difference_of_products(R a, R b, R c, R d) {
  const R cd = c * d;
  const R error = fnma(c, d, cd);
  return fma(a, b, -cd) + error;
}
template <typename R>
TORCHDET_LANE Complex<R> difference_of_products(Complex<R> a, Complex<R> b, Complex<R> c,
                                                Complex<R> d) {
  return {difference_of_products(a.re, b.re, a.im, b.im) +
              difference_of_products(c.im, d.im, c.re, d.re),
          difference_of_products(a.re, b.im, -a.im, b.re) +
              difference_of_products(-c.re, d.im, c.im, d.re)};
}

// det of the equilibrated matrix a, which is overwritten, and so are the weights of its rows. For n
// <= 2 the expansion is accurate; from n = 3 on it loses up to 1e9 units near singular matrices,
// and elimination does not.
template <int N, typename V>
class Determinant {
 public:
  TORCHDET_LANE Determinant(V* a, RealOf<V>* weight) : a_(a) {
    if constexpr (N == 1) {
      plain_ = a[0];
    } else if constexpr (N == 2) {
      plain_ = difference_of_products(a[0], a[3], a[1], a[2]);
    } else {
      sign_ = factor_lu<N, false>(a, static_cast<IntegerOf<V>*>(nullptr), weight);
      is_plain_ = plain_product<N>(a, sign_, plain_);
    }
  }
  TORCHDET_LANE bool is_plain() const { return is_plain_; }
  TORCHDET_LANE V plain() const { return plain_; }
  TORCHDET_LANE Scaled<V> scaled() const {
    if constexpr (!kIsComplex<V>) {
      if (N <= 2 ? all_normal(abs(plain_), abs(plain_)) : is_plain_) {
        return normalise_normal(plain_);
      }
    }
    if constexpr (N <= 2) {
      return normalise(plain_, IntegerOf<V>(0));
    } else {
      return diagonal_product<N>(a_, sign_);
    }
  }

 private:
  const V* a_;
  RealOf<V> sign_;
  V plain_;
  bool is_plain_ = true;
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
