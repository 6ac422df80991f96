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
  using typename Base::I, typename Base::Integer, typename Base::M, typename Base::Number,
      typename Base::T;
  static constexpr int W = M::W;

 public:
  RowDetJet(int64_t n, Arena& arena)
      : Base(n, arena),
        f_(arena.take<P>(X_.packs)),
        g_(arena.take<P>(X_.packs)),
        v_(arena.take<P>(X_.packs)) {}

  static void det_jet(const Problem& p, int64_t begin, int64_t end) {
    RowDetJet work = thread_space<RowDetJet>(p.n);
    for (int64_t b = begin; b < end; ++b) {
      work.factor(p, b);
      const JetFactors<Number> factors = work.prepare();
      BatchView direction = p.other;
      for (int64_t i = 0; i < p.directions; ++i) {
        direction.data = static_cast<const Number*>(p.other.data) + i * p.direction_stride;
        read_matrix<0>(direction, b, work.Z_);
        const Integer z = work.scale_direction();
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
  // T takes the place of X, Z that of K, and N that of A, once that has served.
  const M T_ = Base::X_, Z_ = Base::K_, N_ = Base::A_;
  P *f_, *g_, *v_;
  bool is_transposed_ = false;  // what T, f and g are for: the transposes of A and Z

  JetFactors<Number> prepare() {
    const int64_t n = A_.n;
    const ExclusivePairProducts<Number> rho([&](int64_t i) { return this->pivot(i); }, n, this->x_,
                                            this->y_);
    take_vectors(rho.smallest());
    this->K_.clear();
    for (int64_t i = 0; i < n; ++i) {
      this->K_.set(i, i, i == rho.smallest() ? zero<Number>() : this->x_[i]);
    }
    transpose(A_);
    this->carry_back();
    transpose(T_);
    is_transposed_ = false;
    return JetFactors<Number>(rho);
  }

  // f and g, column and row k of F and G.
  void take_vectors(int64_t k) {
    const int64_t n = A_.n;
    std::fill(f_, f_ + A_.packs, zero<P>());
    std::fill(g_, g_ + A_.packs, zero<P>());
    if (k < 0) {  // no pivot is a number
      return;
    }
    // From unit vectors, in the order of the pivots, in two rows of X, which is not in use yet.
    Number *const of_rows = reinterpret_cast<Number*>(X_.data), *const of_columns = of_rows + n;
    std::fill(of_rows, of_rows + 2 * n, zero<Number>());
    of_rows[k] = of_columns[k] = one<Number>();
    for (int64_t r = k; r > 0; --r) {
      for (int64_t i = 0; i < r; ++i) {
        of_rows[i] = fnma(A_.get(r, i), of_rows[r], of_rows[i]);
        of_columns[i] = fnma(A_.get(i, r), of_columns[r], of_columns[i]);
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      set_number(g_, pivots_.row_index[i], of_rows[i]);
      set_number(f_, pivots_.column_index[i], of_columns[i]);
    }
  }

  // Z in the frame of B, and the way that it asks for; returns its exponent.
  Integer scale_direction() {
    const int64_t n = Z_.n;
    I* const by_column = this->largest_of_column_;
    std::fill(by_column, by_column + Z_.packs, I(kZeroExponent));
    TwoLargest<Integer> rows, columns;
    for (int64_t i = 0; i < n; ++i) {
      I of_row = I(kZeroExponent);
      for (int64_t v = 0; v < Z_.packs; ++v) {
        const I e = entry_exponent(Z_.row(i)[v]) + I(frame_.rows()[i]) + frame_.column_exponent[v];
        of_row = maximum(of_row, e);
        by_column[v] = maximum(by_column[v], e);
      }
      rows.add(largest_lane(of_row));
    }
    for (int64_t j = 0; j < n; ++j) {
      columns.add(reinterpret_cast<const Integer*>(by_column)[j]);
    }
    const auto scales = JetScales<Integer>::template of<T>(rows, columns);
    for (int64_t i = 0; i < n; ++i) {
      const I exponent = I(frame_.rows()[i] - scales.exponent);
      for (int64_t v = 0; v < Z_.packs; ++v) {
        P& x = Z_.row(i)[v];
        x = scale_pow2(x, exponent + frame_.column_exponent[v]);
      }
    }
    if (scales.transposed) {
      transpose(Z_);
    }
    if (scales.transposed != is_transposed_) {
      transpose(T_);
      std::swap(f_, g_);
      is_transposed_ = scales.transposed;
    }
    return scales.exponent;
  }

  JetTerms<Number> terms() {
    const int64_t n = T_.n, packs = T_.packs;
    std::fill(v_, v_ + packs, zero<P>());
    for (int64_t i = 0; i < n; ++i) {
      const P factor = broadcast<P>(get_number(g_, i));
      for (int64_t v = 0; v < packs; ++v) {
        v_[v] = fma(factor, Z_.row(i)[v], v_[v]);
      }
    }
    negative_product(T_, Z_, N_);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t v = 0; v < packs; ++v) {
        N_.row(i)[v] = -N_.row(i)[v];
        Z_.row(i)[v] = N_.row(i)[v];
      }
    }
    transpose(Z_);
    JetTerms<Number> x;
    P pairs = zero<P>(), of_f = zero<P>();
    for (int64_t i = 0; i < n; ++i) {
      const P* const row = N_.row(i);
      const Number v_i = get_number(v_, i);
      x.add_diagonal(N_.get(i, i), get_number(f_, i) * v_i);
      for (int64_t v = 0; v < packs; ++v) {
        const I place = lane_numbers<P>(), here = I(Integer(i - v * W));
        const P below = select(greater(here, place), row[v], zero<P>());
        pairs = fma(below, Z_.row(i)[v], pairs);
        const P others = select(equal(here, place), zero<P>(), row[v]);
        of_f = fma(broadcast<P>(v_i) * others, f_[v], of_f);
      }
    }
    x.minors = x.minors + -sum_of_lanes(pairs);
    x.mixed = x.mixed + -sum_of_lanes(of_f);
    return x;
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
