// Equilibration: B = 2^-r A 2^-c with integer r_i, c_j, so that the largest entry of every nonzero
// row and column of B lies in [1/2, 2).
//
// Powers of two are exact, so B has the determinant of A up to 2^R, R = sum r + sum c, and C(A)_ij
// = C(B)_ij 2^(R - r_i - c_j). Every pivot and product of the algorithms that follow is then of
// moderate size, and 1e-300 beside 1e300 costs nothing. Each entry is scaled once by the sum r_i +
// c_j: scaling rows and columns one after the other would push entries through the subnormal range.
// Most matrices are balanced as they come, and only looked at. Their pivots are chosen as if they
// were scaled: an entry counts as much as it has weight beside the largest of its row. Powers of
// two commute with every step of an elimination, so that is as good as scaling, and cheaper.
#pragma once

#include "lane.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename R>
TORCHDET_LANE IntegerOf<R> entry_exponent(R x) {
  return exponent_of(x);
}
template <typename R>
TORCHDET_LANE IntegerOf<R> entry_exponent(Complex<R> x) {
  return maximum(exponent_of(x.re), exponent_of(x.im));
}

// Exponents below this belong to zeros (kZeroExponent plus or minus any true exponent).
constexpr int kZeroExponentBound = kZeroExponent / 2;

template <typename V>
struct Equilibration {
  IntegerOf<V> total;  // R
  RealOf<V> poison;    // NaN if an entry of A is infinite or NaN, else -0, which changes nothing:
                       // added to results
  bool is_identity = false;  // B is A
};

// Whether 2^e is a number in all lanes, with room for another such factor.
template <typename R>
TORCHDET_LANE bool is_factor(IntegerOf<R> e) {
  return !any(greater(maximum(e, -e), IntegerOf<R>(kPairExponent<R>)));
}

// 2^(row[i] + column[j]) as a factor for entry (i, j), where every exponent of the tile is small
// enough for it.
template <typename V>
class PairScaling {
 public:
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  TORCHDET_LANE PairScaling(const I* row, const I* column, int n) : row_(row), column_(column) {
    I largest = maximum(row[0], -row[0]);
    TORCHDET_UNROLL
    for (int i = 0; i < n; ++i) {
      largest = maximum(largest, maximum(row[i], -row[i]));
      largest = maximum(largest, maximum(column[i], -column[i]));
    }
    fits_ = !any(greater(largest, I(kPairExponent<R>)));
  }
  // f(i, j, scale) for all entries of an n x n matrix, with scale(x) = x * 2^(row[i] + column[j]).
  template <typename Body>
  TORCHDET_LANE void for_entries(int n, Body body) const {
    if (fits_) {
      R column_factor[kMaxLaneOrder];
      TORCHDET_UNROLL
      for (int j = 0; j < n; ++j) {
        column_factor[j] = exact_pow2<R>(column_[j]);
      }
      TORCHDET_UNROLL
      for (int i = 0; i < n; ++i) {
        const R row_factor = exact_pow2<R>(row_[i]);
        TORCHDET_UNROLL
        for (int j = 0; j < n; ++j) {
          body(i, j, [&](V x) { return x * (row_factor * column_factor[j]); });
        }
      }
    } else {
      TORCHDET_UNROLL
      for (int i = 0; i < n; ++i) {
        TORCHDET_UNROLL
        for (int j = 0; j < n; ++j) {
          body(i, j, [&](V x) { return scale_pow2(x, row_[i] + column_[j]); });
        }
      }
    }
  }

 private:
  const I* row_;
  const I* column_;
  bool fits_;
};

// row[i] = -r_i, column[j] = -c_j, for numbers of any size.
template <typename V>
TORCHDET_LANE void frame_exponents(const V* a, int n, IntegerOf<V>* row, IntegerOf<V>* column) {
  using I = IntegerOf<V>;
  const int s = tile_stride(n);
  const auto moved = [](I e) { return select(greater(I(kZeroExponentBound), e), I(0), -e); };
  TORCHDET_UNROLL
  for (int i = 0; i < n; ++i) {
    I e = I(kZeroExponent);
    TORCHDET_UNROLL
    for (int j = 0; j < n; ++j) {
      e = maximum(e, entry_exponent(a[i * s + j]));
    }
    row[i] = moved(e);
  }
  TORCHDET_UNROLL
  for (int j = 0; j < n; ++j) {
    I e = I(kZeroExponent);
    TORCHDET_UNROLL
    for (int i = 0; i < n; ++i) {
      e = maximum(e, entry_exponent(a[i * s + j]) + row[i]);
    }
    column[j] = moved(e);
  }
}

// The scaling itself, where the mask says so; elsewhere row and column are zero.
template <typename V, typename Mask>
TORCHDET_COLD void equilibrate_unbalanced(V* a, int n, Mask unbalanced, IntegerOf<V>* row,
                                          IntegerOf<V>* column) {
  using I = IntegerOf<V>;
  const int s = tile_stride(n);
  frame_exponents(a, n, row, column);
  TORCHDET_UNROLL
  for (int i = 0; i < n; ++i) {
    row[i] = select(unbalanced, row[i], I(0));
    column[i] = select(unbalanced, column[i], I(0));
  }
  PairScaling<V>(row, column, n).for_entries(n, [&](int i, int j, auto scale) {
    a[i * s + j] = scale(a[i * s + j]);
  });
}

// The same, with what it leaves. non_finite: which matrices have a NaN or an infinity.
template <typename V, typename Mask>
TORCHDET_LANE Equilibration<V> equilibrate_where(V* a, int n, Mask unbalanced, Mask non_finite,
                                                 IntegerOf<V>* row, IntegerOf<V>* column) {
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  using T = ScalarOf<V>;
  equilibrate_unbalanced(a, n, unbalanced, row, column);
  I total = I(0);
  TORCHDET_UNROLL
  for (int i = 0; i < n; ++i) {
    total = total - row[i] - column[i];
  }
  return {total, select(non_finite, R(std::numeric_limits<T>::quiet_NaN()), R(T(-0.0)))};
}

// Scales all matrices, balanced ones too.
template <typename V>
TORCHDET_LANE Equilibration<V> equilibrate_all(V* a, int n, IntegerOf<V>* row,
                                               IntegerOf<V>* column) {
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  I largest = I(0);
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) {
      largest = maximum(largest, component_bits(a[i * tile_stride(n) + j]));
    }
  }
  const I most = bits_of(R(std::numeric_limits<ScalarOf<V>>::max()));
  return equilibrate_where(a, n, equal(largest, largest), greater(largest, most), row, column);
}

// Bit pattern of 2^e.
template <typename I, typename F>
TORCHDET_LANE I pattern_of_pow2(int e) {
  return I(ScalarOf<I>(e + F::kMaxExponent) << F::kFractionBits);
}

// Matrices whose rows and columns all have their largest entries within 2^kBalance of each other,
// and within 2^kWithin of 1, stay as they are. Closed forms (n <= 2) choose no pivot.
constexpr int kCentral = 24;
template <int N>
constexpr int kBalance = N == 1 || N == 2 ? 2 * kCentral : 4;
// Cofactors are products of N - 1 pivots, formed without exponents where that is safe (cofactor.h):
// nearer to 1, such products take a third of the range at the most.
template <int N, typename T>
constexpr int kCofactorCentral =
    std::min(kCentral, Format<T>::kMaxExponent / 3 / std::max(N - 1, 1));

// 2^-e for a normal number of exponent e, from its bit pattern.
template <typename R>
TORCHDET_LANE R weight_of(IntegerOf<R> bits) {
  using F = Format<ScalarOf<R>>;
  using I = IntegerOf<R>;
  using Bits = ScalarOf<I>;
  const I exponent = bits & I(Bits(2 * F::kMaxExponent + 1) << F::kFractionBits);
  return from_bits(I(Bits(2 * F::kMaxExponent) << F::kFractionBits) - exponent);
}

// The rule, on bit patterns. `largest`: of the largest entry of the matrix. Every row and every
// column has a largest entry; `least`: of the smallest of these, or of 2^kWithin where that is
// less.
template <int kBalance, int kWithin, typename F, typename I>
TORCHDET_LANE auto is_unbalanced(I largest, I least) {
  const I bound = maximum(largest - (I(ScalarOf<I>(kBalance)) << F::kFractionBits),
                          pattern_of_pow2<I, F>(-kWithin));
  return mask_or(greater(bound, least), greater(largest, pattern_of_pow2<I, F>(kWithin)));
}

// Scales a (n x n, row-major) in place, or leaves it where all matrices of the pack are balanced;
// row and column receive the exponents -r and -c. N is n where it is known at compile time, or 0.
// weight: where given, receives 2^-e for each row, e being the exponent of its largest entry: 1 in
// matrices that have been scaled.
template <int N, int kWithin = kCentral, typename V>
TORCHDET_LANE Equilibration<V> equilibrate(V* a, int n_runtime, IntegerOf<V>* row,
                                           IntegerOf<V>* column, RealOf<V>* weight = nullptr) {
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  using T = ScalarOf<V>;
  using F = Format<T>;
  const int n = N > 0 ? N : n_runtime;
  const int s = tile_stride(n);
  I largest = I(0), least = pattern_of_pow2<I, F>(kWithin);
  TORCHDET_UNROLL
  for (int j = 0; j < n; ++j) {
    column[j] = I(0);
  }
  TORCHDET_UNROLL
  for (int i = 0; i < n; ++i) {
    I largest_of_row = I(0);
    TORCHDET_UNROLL
    for (int j = 0; j < n; ++j) {
      const I size = component_bits(a[i * s + j]);
      largest_of_row = maximum(largest_of_row, size);
      column[j] = maximum(column[j], size);
    }
    largest = maximum(largest, largest_of_row);
    least = minimum(least, largest_of_row);
    row[i] = I(0);
    if (weight != nullptr) {
      weight[i] = weight_of<R>(largest_of_row);
    }
  }
  TORCHDET_UNROLL
  for (int j = 0; j < n; ++j) {
    least = minimum(least, column[j]);
    column[j] = I(0);
  }
  const auto non_finite = greater(largest, bits_of(R(std::numeric_limits<T>::max())));
  // Nothing depends on the size of a number alone, so a zero costs no more than others.
  const auto unbalanced =
      N == 1 ? non_finite : is_unbalanced<kBalance<N>, kWithin, F>(largest, least);
  if (!any(unbalanced)) {
    return {I(0), R(T(-0.0)), true};
  }
  const Equilibration<V> eq = equilibrate_where(a, n, unbalanced, non_finite, row, column);
  if (weight != nullptr) {
    TORCHDET_UNROLL
    for (int i = 0; i < n; ++i) {
      weight[i] = select(unbalanced, R(T(1)), weight[i]);
    }
  }
  return eq;
}

template <typename R>
TORCHDET_LANE R add_poison(R x, R poison) {
  return x + poison;
}
template <typename R>
TORCHDET_LANE Complex<R> add_poison(Complex<R> x, R poison) {
  return {x.re + poison, x.im + poison};
}

// Directions Z of derivatives, and derivatives H in one, in the frame of B.
template <typename V>
class DirectionScaling {
 public:
  using I = IntegerOf<V>;
  // Z <- 2^-z Z' with entries of at most 2, Z' = 2^-(r + c) Z. Keeps the exponents -r and -c.
  TORCHDET_LANE DirectionScaling(V* Z, int n, const I* row, I* column)
      : n_(n), row_(row), column_(column) {
    const int s = tile_stride(n);
    I z = I(kZeroExponent);
    TORCHDET_UNROLL
    for (int i = 0; i < n; ++i) {
      TORCHDET_UNROLL
      for (int j = 0; j < n; ++j) {
        z = maximum(z, entry_exponent(Z[i * s + j]) + row[i] + column[j]);
      }
    }
    z_ = select(greater(I(kZeroExponentBound), z), I(0), z);
    shift(-z_);
    PairScaling<V>(row_, column_, n).for_entries(n, [&](int i, int j, auto scale) {
      Z[i * s + j] = scale(Z[i * s + j]);
    });
  }
  TORCHDET_LANE I exponent() const { return z_; }
  // H <- the derivative at A from that at B, times factor 2^exponent. Once only.
  TORCHDET_LANE void restore(V* H, RealOf<V> factor, I exponent, RealOf<V> poison) {
    const int s = tile_stride(n_);
    shift(exponent + z_ + z_);
    PairScaling<V>(row_, column_, n_).for_entries(n_, [&](int i, int j, auto scale) {
      H[i * s + j] = add_poison(scale(H[i * s + j] * factor), poison);
    });
  }

 private:
  TORCHDET_LANE void shift(I by) {
    TORCHDET_UNROLL
    for (int j = 0; j < n_; ++j) {
      column_[j] = column_[j] + by;
    }
  }
  const int n_;
  const I* const row_;
  I* const column_;
  I z_;
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
