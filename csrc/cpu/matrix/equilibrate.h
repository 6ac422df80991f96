// Equilibration (math/equilibrate.h) of one matrix whose rows lie in packs.
#pragma once

#include "../../math/equilibrate.h"
#include "row_matrix.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// What equilibration did: exponents -r of the rows and -c of the columns.
template <typename P>
struct Frame {
  using T = ScalarOf<P>;
  using Integer = typename Format<T>::Integer;
  IntegerOf<P>* row_exponent;  // row i in lane i
  IntegerOf<P>* column_exponent;
  Integer total;             // R
  T largest;                 // no entry of the scaled matrix is larger, in component_size
  bool finite;               // no NaN or infinity in the matrix
  bool is_identity = false;  // the matrix was left as it is: all exponents are 0

  // NaN if an entry of the matrix is infinite or NaN, else -0, which changes nothing.
  T poison() const { return finite ? T(-0.0) : std::numeric_limits<T>::quiet_NaN(); }
  Integer* rows() const { return reinterpret_cast<Integer*>(row_exponent); }
  Integer* columns() const { return reinterpret_cast<Integer*>(column_exponent); }
};

// Lane r receives the largest lane of x[r].
template <int S, typename T, int W, int... L>
TORCHDET_LANE Vec<T, W> larger_halves(Vec<T, W> a, Vec<T, W> b, std::integer_sequence<int, L...>) {
  // Lanes with bit S keep those of b, the others those of a, each with its partner's maximum.
  const Vec<T, W> own(__builtin_shufflevector(a.raw, b.raw, ((L & S) == 0 ? L : W + L)...));
  const Vec<T, W> partner(
      __builtin_shufflevector(a.raw, b.raw, ((L & S) == 0 ? L + S : W + L - S)...));
  return maximum(own, partner);
}
template <int S, typename T, int W>
TORCHDET_LANE Vec<T, W> largest_of_each(Vec<T, W> (&x)[W]) {
  if constexpr (S == 0) {
    return x[0];
  } else {
    for (int r = 0; r < S; ++r) {
      x[r] = larger_halves<S>(x[r], x[r + S], std::make_integer_sequence<int, W>());
    }
    return largest_of_each<S / 2>(x);
  }
}
template <typename T, int W>
TORCHDET_LANE Vec<T, W> largest_of_each(Vec<T, W> (&x)[W]) {
  return largest_of_each<W / 2>(x);
}

template <typename P>
void equilibrate_unbalanced(const RowMatrix<P>& A, Frame<P>& frame) {
  using I = IntegerOf<P>;
  using Integer = typename Frame<P>::Integer;
  constexpr int W = LaneTraits<P>::kWidth;
  const int64_t n = A.n;
  const auto moved = [](Integer e) { return e < kZeroExponentBound ? Integer(0) : Integer(-e); };
  for (int64_t i = 0; i < n; ++i) {
    I e = I(kZeroExponent);
    for (int64_t p = 0; p < A.packs; ++p) {
      e = maximum(e, entry_exponent(A.row(i)[p]));
    }
    const Integer largest = largest_lane(e);
    frame.finite = frame.finite && largest <= Format<ScalarOf<P>>::kMaxExponent;
    frame.rows()[i] = moved(largest);
    frame.total -= frame.rows()[i];
  }
  for (int64_t p = 0; p < A.packs; ++p) {
    I e = I(kZeroExponent);
    for (int64_t i = 0; i < n; ++i) {
      e = maximum(e, entry_exponent(A.row(i)[p]) + I(frame.rows()[i]));
    }
    for (int64_t j = p * W; j < std::min(p * W + W, n); ++j) {
      frame.columns()[j] = moved(e[j - p * W]);
      frame.total -= frame.columns()[j];
    }
    for (int64_t i = 0; i < n; ++i) {
      A.row(i)[p] = scale_pow2(A.row(i)[p], I(frame.rows()[i]) + frame.column_exponent[p]);
    }
  }
}

// Scales A in place, or leaves it where it is balanced, and fills the frame in. largest_of_column:
// space for A.packs packs. kPacks: packs per row where known at compile time, else 0.
template <int kPacks, typename P>
TORCHDET_LANE void equilibrate_rows(const RowMatrix<P>& A, Frame<P>& frame,
                                    IntegerOf<P>* largest_of_column) {
  using I = IntegerOf<P>;
  using Integer = typename Frame<P>::Integer;
  using F = Format<ScalarOf<P>>;
  constexpr int W = LaneTraits<P>::kWidth;
  const int64_t n = A.n, packs = kPacks > 0 ? kPacks : A.packs;
  const I high = pattern_of_pow2<I, F>(kCentral);
  for (int64_t v = 0; v < packs; ++v) {
    largest_of_column[v] = frame.row_exponent[v] = frame.column_exponent[v] = I(0);
  }
  I least = high;
  constexpr int kRows = W < 4 ? W : 4;  // at a time
  for (int64_t b = 0; b < n; b += W) {
    I row[W];
    for (int r = 0; r < W; r += kRows) {
      const P* from[kRows];
      I most[kRows];
      for (int m = 0; m < kRows; ++m) {
        from[m] = A.row(std::min(b + r + m, n - 1));  // the last row again where there is none
        most[m] = I(0);
      }
      for (int64_t v = 0; v < packs; ++v) {
        I most_of_column = largest_of_column[v];
        for (int m = 0; m < kRows; ++m) {
          const I size = component_bits(from[m][v]);
          most[m] = maximum(most[m], size);
          most_of_column = maximum(most_of_column, size);
        }
        largest_of_column[v] = most_of_column;
      }
      for (int m = 0; m < kRows; ++m) {
        row[r + m] = most[m];
      }
    }
    least = minimum(least, largest_of_each(row));
  }
  I largest = I(0);
  for (int64_t v = 0; v < packs; ++v) {
    largest = maximum(largest, largest_of_column[v]);
    const auto used = greater(I(Integer(n - v * W)), lane_numbers<P>());
    least = minimum(least, select(used, largest_of_column[v], high));
  }
  largest = fold_lanes(largest, [](I a, I b) { return maximum(a, b); });
  frame.total = 0;
  frame.largest = from_bits(largest)[0];
  frame.finite = frame.is_identity = true;
  if (any(is_unbalanced<kBalance<0>, kCentral, F>(largest, least))) [[unlikely]] {
    frame.largest = 1;
    frame.is_identity = false;
    equilibrate_unbalanced(A, frame);
  }
}

// Z <- 2^-z Z' with entries of at most 2, Z'_ij = 2^-(r_i + c_j) Z_ij; returns z. The frame has r
// of row row_of(k) at place k.
template <typename P, typename RowOf>
TORCHDET_LANE typename Frame<P>::Integer scale_direction(const RowMatrix<P>& Z,
                                                         const Frame<P>& frame, RowOf row_of) {
  using I = IntegerOf<P>;
  using R = RealOf<P>;
  using Integer = typename Frame<P>::Integer;
  if (frame.is_identity) {
    I most = I(0);
    for (int64_t k = 0; k < Z.n; ++k) {
      for (int64_t v = 0; v < Z.packs; ++v) {
        most = maximum(most, component_bits(Z.row(k)[v]));
      }
    }
    const Integer z = exponent_of(from_bits(largest_lane(most)));
    if (std::abs(z) < Format<ScalarOf<P>>::kMaxExponent) [[likely]] {  // one factor does it
      const R power = exact_pow2<R>(I(-z));
      for (int64_t k = 0; k < Z.n; ++k) {
        for (int64_t v = 0; v < Z.packs; ++v) {
          Z.row(k)[v] = Z.row(k)[v] * power;
        }
      }
      return z;
    }
  }
  I most = I(kZeroExponent);
  for (int64_t k = 0; k < Z.n; ++k) {
    const I exponent = I(frame.rows()[k]);
    for (int64_t v = 0; v < Z.packs; ++v) {
      most =
          maximum(most, entry_exponent(Z.row(row_of(k))[v]) + exponent + frame.column_exponent[v]);
    }
  }
  const Integer largest = largest_lane(most);
  const Integer z = largest < kZeroExponentBound ? Integer(0) : largest;
  for (int64_t k = 0; k < Z.n; ++k) {
    const I exponent = I(frame.rows()[k] - z);
    for (int64_t v = 0; v < Z.packs; ++v) {
      P& x = Z.row(row_of(k))[v];
      x = scale_pow2(x, exponent + frame.column_exponent[v]);
    }
  }
  return z;
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
