// First and second derivatives of determinants along d directions, for one matrix after the other,
// each factored once for all of its directions.
#pragma once

#include "../../math/jet.h"
#include "det_hvp.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// kDetJet, in the notation of math/jet.h and in the order of the rows and columns of A.
template <typename P>
class RowDetJet : BlockedHvp<P> {
  using Base = BlockedHvp<P>;
  using typename Base::Integer, typename Base::M, typename Base::Number, typename Base::T;

 public:
  RowDetJet(int64_t n, Arena& arena)
      : Base(n, arena),
        g_p_(arena.take<Number>(n)),
        g_q_(arena.take<Number>(n)),
        f_p_(arena.take<P>(X_.packs)),
        f_q_(arena.take<P>(X_.packs)),
        gz_p_(arena.take<P>(X_.packs)),
        gz_q_(arena.take<P>(X_.packs)) {}

  static void det_jet(const Problem& p, int64_t begin, int64_t end) {
    RowDetJet work = thread_space<RowDetJet>(p.n);
    for (int64_t b = begin; b < end; ++b) {
      work.factor(p, b);
      const JetFactors<Number> factors = work.prepare();
      BatchView direction = p.other;
      for (int64_t i = 0; i < p.directions; ++i) {
        direction.data = static_cast<const Number*>(p.other.data) + i * p.direction_stride;
        read_matrix<0>(direction, b, work.Z_);
        const Integer z = scale_direction(work.Z_, work.frame_, [](int64_t k) { return k; });
        const JetTerms<Number> terms = work.terms();
        const Integer exponent = work.frame_.total + z - shift_of<T>(p, b);
        const int64_t place = b * p.directions + i;
        work.write(p.determinant, place, factors.first(terms), exponent);
        work.write(p.out, place, factors.second(terms), exponent + z);
      }
    }
  }

 private:
  using Base::A_, Base::X_, Base::frame_, Base::pivots_;
  // Y takes the place of X, Z that of K, and N that of A, once that has served.
  const M Y_ = Base::X_, Z_ = Base::K_, N_ = Base::A_;
  Number *g_p_, *g_q_;             // in the order of the rows of A
  P *f_p_, *f_q_, *gz_p_, *gz_q_;  // in the order of its columns

  JetFactors<Number> prepare() {
    const int64_t n = A_.n;
    const ExclusivePairProducts<Number> rho([&](int64_t i) { return this->pivot(i); }, n, this->x_,
                                            this->y_);
    const int64_t p = rho.smallest(), q = rho.second_smallest();
    take_vectors(p, g_p_, f_p_);
    take_vectors(q, g_q_, f_q_);
    this->K_.clear();
    for (int64_t i = 0; i < n; ++i) {
      this->K_.set(i, i, i == p || i == q ? zero<Number>() : this->x_[i]);
    }
    transpose(A_);
    this->carry_back();
    transpose(Y_);
    return JetFactors<Number>(rho);
  }

  // Row k of G and column k of F; zeros for k = -1.
  void take_vectors(int64_t k, Number* g, P* f) {
    const int64_t n = A_.n;
    std::fill(f, f + A_.packs, zero<P>());
    std::fill(g, g + n, zero<Number>());
    if (k < 0) {
      return;
    }
    // From unit vectors, in the order of the pivots.
    Number *const of_rows = work_rows(), *const of_columns = work_columns();
    std::fill(of_rows, of_rows + n, zero<Number>());
    std::fill(of_columns, of_columns + n, zero<Number>());
    of_rows[k] = of_columns[k] = one<Number>();
    for (int64_t r = k; r > 0; --r) {
      for (int64_t i = 0; i < r; ++i) {
        of_rows[i] = fnma(A_.get(r, i), of_rows[r], of_rows[i]);
        of_columns[i] = fnma(A_.get(i, r), of_columns[r], of_columns[i]);
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      g[pivots_.row_index[i]] = of_rows[i];
      set_number(f, pivots_.column_index[i], of_columns[i]);
    }
  }
  // Two rows of numbers in X, which is not in use yet.
  Number* work_rows() const { return reinterpret_cast<Number*>(X_.data); }
  Number* work_columns() const { return work_rows() + A_.n; }

  JetTerms<Number> terms() {
    const int64_t n = Y_.n, packs = Y_.packs;
    JetTerms<Number> x;
    multiply(g_p_, Z_, gz_p_);
    multiply(g_q_, Z_, gz_q_);
    x.a_pp = dot(gz_p_, f_p_);
    x.a_pq = dot(gz_p_, f_q_);
    x.a_qp = dot(gz_q_, f_p_);
    x.a_qq = dot(gz_q_, f_q_);
    negative_product(Y_, Z_, N_);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t v = 0; v < packs; ++v) {
        Z_.row(i)[v] = N_.row(i)[v];
      }
    }
    transpose(Z_);
    x.t = zero<Number>();
    P squares = zero<P>(), of_p = zero<P>(), of_q = zero<P>();
    for (int64_t i = 0; i < n; ++i) {
      const P* const row = N_.row(i);
      x.t = fnma(one<Number>(), N_.get(i, i), x.t);
      const P p = broadcast<P>(get_number(gz_p_, i)), q = broadcast<P>(get_number(gz_q_, i));
      for (int64_t v = 0; v < packs; ++v) {
        squares = fma(row[v], Z_.row(i)[v], squares);
        of_p = fnma(p * row[v], f_p_[v], of_p);
        of_q = fnma(q * row[v], f_q_[v], of_q);
      }
    }
    x.t_of_square = sum_of_lanes(squares);
    x.b_p = sum_of_lanes(of_p);
    x.b_q = sum_of_lanes(of_q);
    return x;
  }

  // to = g^T Z.
  static void multiply(const Number* g, const M& Z, P* to) {
    std::fill(to, to + Z.packs, zero<P>());
    for (int64_t i = 0; i < Z.n; ++i) {
      const P factor = broadcast<P>(g[i]);
      for (int64_t v = 0; v < Z.packs; ++v) {
        to[v] = fma(factor, Z.row(i)[v], to[v]);
      }
    }
  }
  Number dot(const P* x, const P* y) const {
    P sum = zero<P>();
    for (int64_t v = 0; v < X_.packs; ++v) {
      sum = fma(x[v], y[v], sum);
    }
    return sum_of_lanes(sum);
  }
  static Number sum_of_lanes(P x) {
    return first_lane(fold_lanes(x, [](P a, P b) { return a + b; }));
  }

  void write(void* out, int64_t place, Scaled<Number> x, Integer exponent) const {
    static_cast<Number*>(out)[place] =
        add_poison(scale_pow2(x.mantissa * pivots_.sign, x.exponent + exponent), frame_.poison());
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
