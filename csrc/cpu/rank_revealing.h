// What takes the rank-revealing LDU for matrices above the class "lane": Hessian-vector products
// (math/hvp.h has the formulas), and cofactors where an inverse leaves the range of the format.
//
// With P B Q = L D U, G = L^-1 P and F = Q U^-1: C(B) = s G^T diag(a) F^T, a_i = prod_{k != i} d_k.
#pragma once

#include "../math/hvp.h"
#include "arena.h"
#include "results.h"
#include "row_io.h"
#include "row_ldu.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename P>
class RankRevealing {
 public:
  using T = ScalarOf<P>;
  using I = IntegerOf<P>;
  using Number = NumberOf<P>;
  using M = RowMatrix<P>;
  using Integer = typename Format<T>::Integer;

  RankRevealing(int64_t n, Arena& arena)
      : A_(take_matrix(n, arena)), X_(take_matrix(n, arena)), K_(take_matrix(n, arena)) {
    pivots_.row_index = arena.take<int64_t>(n);
    pivots_.column_index = arena.take<int64_t>(n);
    frame_.row_exponent = arena.take<I>(A_.packs);
    frame_.column_exponent = arena.take<I>(A_.packs);
    largest_of_column_ = arena.take<I>(A_.packs);
    row_largest_ = arena.take<T>(n);
    x_ = arena.take<Number>(n);
    y_ = arena.take<Number>(n);
  }

  // kDetHvp.
  static void det_hvp(const Problem& p, int64_t begin, int64_t end) {
    RankRevealing work = thread_space<RankRevealing>(p.n);
    for (int64_t b = begin; b < end; ++b) {
      work.factor(p, b);
      work.write_hvp(p, b);
    }
  }

  // kCofactor, kDetBackward and kSlogdetBackward for one matrix of any kind. Takes the thread's
  // scratch.
  static void cofactor_matrix(const Problem& p, int64_t b) {
    RankRevealing work = thread_space<RankRevealing>(p.n);
    work.factor(p, b);
    work.write_cofactors(p, b);
  }

 private:
  const M A_, X_, K_;
  LduPivots<P> pivots_;
  Frame<P> frame_;
  I* largest_of_column_;
  T* row_largest_;
  Number *x_, *y_;

  static M take_matrix(int64_t n, Arena& arena) {
    const int64_t stride = M::packs_for(n) | 1;  // odd: spreads the rows over the cache's sets
    return M(arena.take<P>(n * stride), n, stride);
  }

  void factor(const Problem& p, int64_t b) {
    read_matrix<0>(p.A, b, A_);
    equilibrate_rows<0>(A_, frame_, largest_of_column_);
    factor_ldu_rows(A_, pivots_, frame_, row_largest_);
  }
  Number pivot(int64_t k) const { return A_.get(k, k); }

  void write_hvp(const Problem& p, int64_t b) {
    const int64_t n = p.n;
    const Integer z = read_direction(p.other, b);
    // W = L^-1 (P Z Q) U^-1 as its transpose, which is how (1) of math/hvp.h reads it:
    // W^T = U^-T (L^-1 P Z Q)^T.
    solve_unit_triangular<true, false>(A_, X_);
    transpose(X_);
    solve_unit_triangular<true, true>(A_, X_);
    const ExclusivePairProducts<Number> rho([&](int64_t i) { return pivot(i); }, n, x_, y_);
    for (int64_t i = 0; i < n; ++i) {
      Number sum = zero<Number>();
      for (int64_t j = 0; j < n; ++j) {
        if (j != i) {
          const Number product = rho(i, j);
          K_.set(i, j, -(product * X_.get(i, j)));
          sum = fma(product, X_.get(j, j), sum);
        }
      }
      K_.set(i, i, sum);
    }
    Scaled<Number> factor = rho.common;
    factor.exponent += z + frame_.total;
    write(factor, false, result_matrix<P>(p, b));
  }

  void write_cofactors(const Problem& p, int64_t b) {
    Scaled<Number> factor = gradient_factor<P>(p, b);
    if (p.op == Op::kSlogdetBackward) {
      Scaled<Number> d = scaled_one<Number>();
      for (int64_t k = 0; k < p.n; ++k) {
        d = d * pivot(k);
      }
      factor.mantissa = factor.mantissa * reciprocal(d.mantissa);
      factor.exponent -= d.exponent + frame_.total;
    }
    factor.exponent += exclusive_products() + frame_.total;
    write(factor, p.op != Op::kCofactor, result_matrix<P>(p, b));
  }

  // K = diag(a) 2^-e with a_i = prod_{k != i} d_k = m d_p / d_i, p the smallest pivot; returns e.
  Integer exclusive_products() {
    const int64_t n = A_.n;
    int64_t smallest = 0;
    for (int64_t k = 1; k < n; ++k) {
      smallest = pivot_size(pivot(k)) < pivot_size(pivot(smallest)) ? k : smallest;
    }
    K_.clear();
    Scaled<Number> m = scaled_one<Number>();
    for (int64_t k = 0; k < n; ++k) {
      if (k != smallest) {
        m = m * pivot(k);
        K_.set(k, k, PivotQuotient<Number>(pivot(k))(pivot(smallest)));
      }
    }
    K_.set(smallest, smallest, one<Number>());
    for (int64_t k = 0; k < n; ++k) {
      K_.set(k, k, K_.get(k, k) * m.mantissa);
    }
    return m.exponent;
  }

  // X = 2^-z P Z' Q with Z' = 2^-(r + c) Z and entries of at most 2; returns z.
  Integer read_direction(const BatchView& view, int64_t b) {
    const Number* from = static_cast<const Number*>(view.data) + view.offset(b);
    const int64_t n = A_.n;
    Integer z = kZeroExponent;
    X_.clear();
    for (int pass = 0; pass < 2; ++pass) {
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          const Number x = from[pivots_.row_index[i] * view.row_stride +
                                pivots_.column_index[j] * view.column_stride];
          const Integer e = frame_.rows()[i] + frame_.columns()[j];
          if (pass == 0) {
            z = maximum(z, Integer(entry_exponent(x) + e));
          } else {
            X_.set(i, j, scale_pow2(x, e - z));
          }
        }
      }
      z = z < kZeroExponentBound ? Integer(0) : z;
    }
    return z;
  }

  // out = factor s G^T K F^T with the equilibration undone: from the frame of D back to that of A.
  // (L^-T K U^-T)^T = U^-1 (L^-T K)^T.
  void write(Scaled<Number> factor, bool conjugate, Number* out) {
    solve_unit_triangular<false, true>(A_, K_);
    transpose(K_);
    solve_unit_triangular<false, false>(A_, K_);
    factor.mantissa = factor.mantissa * pivots_.sign;
    const int64_t n = A_.n;
    for (int64_t i = 0; i < n; ++i) {
      Number* row = out + pivots_.row_index[i] * n;
      for (int64_t j = 0; j < n; ++j) {
        const Integer e = factor.exponent + frame_.rows()[i] + frame_.columns()[j];
        const Number x = add_poison(scale_pow2(K_.get(j, i) * factor.mantissa, e), frame_.poison());
        row[pivots_.column_index[j]] = conjugate ? conj(x) : x;
      }
    }
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
