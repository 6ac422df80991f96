// What takes the rank-revealing LDU for matrices above the class "lane": Hessian-vector products
// (math/hvp.h has the formulas), and cofactors where an inverse leaves the range of the format.
//
// With P B Q = L D U, G = L^-1 P and F = Q U^-1: C(B) = s G^T diag(a) F^T, a_i = prod_{k != i} d_k.
#pragma once

#include "../../math/hvp.h"
#include "../matrix/io.h"
#include "../matrix/results.h"
#include "../matrix/work_space.h"
#include "ldu.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename P>
class RankRevealing {
 public:
  using T = ScalarOf<P>;
  using R = RealOf<P>;
  using I = IntegerOf<P>;
  using Number = NumberOf<P>;
  using M = RowMatrix<P>;
  using Integer = typename Format<T>::Integer;
  static constexpr int W = M::W;

  RankRevealing(int64_t n, Arena& arena)
      : A_(take_matrix<P>(n, arena)), X_(take_matrix<P>(n, arena)), K_(take_matrix<P>(n, arena)) {
    pivots_.row_index = arena.take<int64_t>(n);
    pivots_.column_index = arena.take<int64_t>(n);
    frame_.row_exponent = arena.take<I>(A_.packs);
    frame_.column_exponent = arena.take<I>(A_.packs);
    largest_of_column_ = arena.take<I>(A_.packs);
    x_ = arena.take<Number>(n);
    y_ = arena.take<Number>(n);
    x_packs_ = arena.take<P>(A_.packs);
    y_packs_ = arena.take<P>(A_.packs);
    diagonal_ = arena.take<P>(A_.packs);
  }

  // For one matrix of any kind, where other ways have failed. Takes the thread's scratch.
  static void det_hvp_matrix(const Problem& p, int64_t b) {
    RankRevealing work = thread_space<RankRevealing>(p.n);
    work.factor_complete(p, b);
    work.write_hvp(p, b);
  }
  // kCofactor, kDetBackward and kSlogdetBackward.
  static void cofactor_matrix(const Problem& p, int64_t b) {
    RankRevealing work = thread_space<RankRevealing>(p.n);
    work.factor_complete(p, b);
    work.write_cofactors(p, b);
  }

 protected:
  const M A_, X_, K_;
  LduPivots<P> pivots_;
  Frame<P> frame_;
  I* largest_of_column_;
  Number *x_, *y_;
  P *x_packs_, *y_packs_, *diagonal_;

  Number pivot(int64_t k) const { return A_.get(k, k); }

  // X = G^T K F^T, from A as (L D U)^T; takes A and K. (L^-T K U^-T)^T = U^-1 (L^-T K)^T.
  void carry_back() {
    solve_unit_triangular<false>(A_, K_);
    transpose(K_);
    transpose(A_);
    solve_unit_triangular<false>(A_, K_);
    transpose(K_);
    for (int64_t i = 0; i < A_.n; ++i) {
      P* const to = X_.row(pivots_.row_index[i]);
      to[A_.packs - 1] = zero<P>();
      for (int64_t j = 0; j < A_.n; ++j) {
        set_number(to, pivots_.column_index[j], K_.get(i, j));
      }
    }
  }

  void factor_complete(const Problem& p, int64_t b) {
    read(p, b, A_);
    factor_ldu_complete(A_, pivots_, x_packs_);
  }
  void read(const Problem& p, int64_t b, const M& to) {
    read_matrix<0>(p.A, b, to);
    equilibrate_rows<0>(to, frame_, largest_of_column_);
  }

  void write_hvp(const Problem& p, int64_t b) {
    const Integer z = read_direction(p.other, b);
    // W = L^-1 (P Z Q) U^-1 as its transpose, which is how (1) of math/hvp.h reads it:
    // W^T = U^-T (L^-1 P Z Q)^T.
    solve_unit_triangular<true>(A_, X_);
    transpose(X_);
    transpose(A_);
    solve_unit_triangular<true>(A_, X_);
    const ExclusivePairProducts<Number> rho([&](int64_t i) { return pivot(i); }, A_.n, x_, y_);
    const JvpFactors<Number> jvp = jvp_factors<P>(p, b, z);
    multiply_by_products(rho, jvp);
    Scaled<Number> factor = rho.common;
    factor.exponent += jvp.exponent + frame_.total - shift_of<T>(p, b);
    write(factor, p.op == Op::kDetBackwardJvp, result_matrix<P>(p, b));
  }

 private:
  // K from W^T = X: (1) and (2) of math/hvp.h.
  void multiply_by_products(const ExclusivePairProducts<Number>& rho,
                            const JvpFactors<Number>& jvp) {
    const P of_hvp = broadcast<P>(jvp.of_hvp);
    const int64_t n = A_.n;
    for (P* packs : {x_packs_, y_packs_, diagonal_}) {
      packs[A_.packs - 1] = zero<P>();
    }
    for (int64_t k = 0; k < n; ++k) {
      set_number(x_packs_, k, x_[k]);
      set_number(y_packs_, k, y_[k]);
      set_number(diagonal_, k, X_.get(k, k));
    }
    for (int64_t i = 0; i < n; ++i) {
      const P x = broadcast<P>(x_[i]), y = broadcast<P>(y_[i]);
      const auto always = equal(I(Integer(i)), I(Integer(rho.smallest())));
      P sum = zero<P>();
      for (int64_t v = 0; v < A_.packs; ++v) {
        const auto is_q = equal(lane_numbers<P>(), I(Integer(rho.second_smallest() - v * W)));
        const auto is_i = equal(lane_numbers<P>(), I(Integer(i - v * W)));
        const auto swapped = mask_or(always, is_q);
        const P product = select(swapped, x_packs_[v], x) * select(swapped, y, y_packs_[v]);
        K_.row(i)[v] = -(product * X_.row(i)[v]) * of_hvp;
        sum = fma(select(is_i, zero<P>(), product), diagonal_[v], sum);
      }
      const Number diagonal = first_lane(fold_lanes(sum, [](P a, P b) { return a + b; }));
      K_.set(i, i, fma(rho.without(i), jvp.of_cofactor, diagonal * jvp.of_hvp));
    }
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
    factor.exponent += exclusive_products() + frame_.total - shift_of<T>(p, b);
    transpose(A_);
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

  // X = 2^-z P Z' Q with Z' = 2^-(r + c) Z and entries of at most 2; returns z. Takes K.
  Integer read_direction(const BatchView& view, int64_t b) {
    const int64_t n = A_.n;
    read_matrix<0>(view, b, K_);
    const Integer z = scale_direction(K_, frame_, [](int64_t i) { return i; });
    for (int64_t i = 0; i < n; ++i) {
      const P* const from = K_.row(pivots_.row_index[i]);
      X_.row(i)[A_.packs - 1] = zero<P>();
      for (int64_t j = 0; j < n; ++j) {
        set_number(X_.row(i), j, get_number(from, pivots_.column_index[j]));
      }
    }
    return z;
  }

  // out = factor s G^T K F^T with the equilibration undone: from the frame of D back to that of A.
  void write(Scaled<Number> factor, bool conjugate, Number* out) {
    carry_back();
    const int64_t n = A_.n;
    const P mantissa = broadcast<P>(factor.mantissa * pivots_.sign);
    for (int64_t i = 0; i < n; ++i) {
      const I row = I(factor.exponent + frame_.rows()[i]);
      for (int64_t v = 0; v < A_.packs; ++v) {
        const P x = scale_pow2(X_.row(i)[v] * mantissa, row + frame_.column_exponent[v]);
        const P poisoned = add_poison(x, R(frame_.poison()));
        store_numbers(reinterpret_cast<T*>(out + i * n + v * W),
                      conjugate ? conj(poisoned) : poisoned, n - v * W);
      }
    }
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
