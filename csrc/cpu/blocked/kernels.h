// Kernels of the class "blocked": one matrix at a time, read into packs, factored (blocked/lu.h)
// and its result written. With U now including D, and S the last pivot, the inverse follows from
//     S B^-1 = Q Z P,  U Z = S L^-1.
// S enters by multiplication only: the last row of Z is that of L^-1, and the others are solved for
// from there, where nothing is divided by S. So an exactly singular matrix takes the same path as
// any other.
#pragma once

#include "../fallback/rank_revealing.h"
#include "../gradient_and_inverse.h"
#include "../saved/integers.h"
#include "lu.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename P>
struct BlockedKernels {
  using T = ScalarOf<P>;
  using R = RealOf<P>;
  using I = IntegerOf<P>;
  using Integer = typename Frame<P>::Integer;
  using Number = NumberOf<P>;
  using M = RowMatrix<P>;
  static constexpr int W = M::W;

  struct Space {
    M X;              // the matrix B, then Z
    M F;              // L below the diagonal, U from it on
    BlockedLu<P> lu;  // of X
    Frame<P> frame;
    I* largest_of_column;
    P *pivots, *reciprocal, *factor;
    I* row_exponent;  // in the order of the steps
    R* column_factor;
    int32_t* step_of;
    int32_t* source_row;
    Space(int64_t n, Arena& arena)
        : X(take_matrix<P>(n, arena)), F(take_matrix<P>(n, arena)), lu(X, arena) {
      frame.row_exponent = arena.take<I>(X.packs);
      frame.column_exponent = arena.take<I>(X.packs);
      largest_of_column = arena.take<I>(X.packs);
      pivots = arena.take<P>(X.packs);
      reciprocal = arena.take<P>(X.packs);
      factor = arena.take<P>(X.packs);
      row_exponent = arena.take<I>(X.packs);
      column_factor = arena.take<R>(X.packs);
      step_of = arena.take<int32_t>(n);
      source_row = arena.take<int32_t>(n);
    }
  };

  // kDet, kSlogdet and kDetFrexp.
  static void determinants(const Problem& p, int64_t begin, int64_t end) {
    Space s = thread_space<Space>(p.n);
    for (int64_t b = begin; b < end; ++b) {
      read(p.A, b, s);
      write_determinant(p, b, s.frame.finite ? s.lu.determinant() : scaled_one<Number>(), s.frame);
    }
  }

  // kCofactor, kDetBackward and kSlogdetBackward, also with Problem::inverse.
  static void cofactor_matrices(const Problem& p, int64_t begin, int64_t end) {
    const GradientAndInverse<P> results(p);
    for (int64_t b = begin; b < end; ++b) {
      Space s = thread_space<Space>(p.n);
      read(p.A, b, s);
      if (!s.frame.finite || !s.lu.factor()) {
        for (const Problem* result : results) {
          fill_without_cofactors(*result, b, s.frame);
        }
      } else {
        s.lu.read_factors(
            [&](int64_t k, const P* row) { std::copy(row, row + s.F.packs, s.F.row(k)); });
        write_all(results, b, s, invert(s, s.lu.sign()));
      }
    }
  }

  // Determinants whose factors are kept.
  static void keep(const Problem& p, int64_t begin, int64_t end) {
    Space s = thread_space<Space>(p.n);
    for (int64_t b = begin; b < end; ++b) {
      read(p.A, b, s);
      const bool has_cofactors = s.frame.finite && s.lu.factor();
      write_determinant(p, b,
                        has_cofactors ? s.lu.product() : Scaled<Number>{zero<Number>(), Integer(0)},
                        s.frame);
      if (!has_cofactors) {
        keep_nothing<P>(p, b);
      } else {
        Number* const to = result_matrix<P>(p, b);
        s.lu.read_factors([&](int64_t k, const P* row) {
          for (int64_t v = 0; v < s.X.packs; ++v) {
            store_numbers(reinterpret_cast<T*>(to + k * p.n + v * W), row[v], p.n - v * W);
          }
        });
        const KeptFactors<int32_t> kept(p.integers, p.n, b);
        kept.sign() = static_cast<int32_t>(s.lu.sign());
        kept.exchanged() = s.lu.exchanged;
        std::copy(s.lu.row, s.lu.row + p.n, kept.rows());
        std::copy(s.frame.rows(), s.frame.rows() + p.n, kept.row_exponents());
        std::copy(s.frame.columns(), s.frame.columns() + p.n, kept.column_exponents());
      }
    }
  }

  // Gradients from the factors that have been kept.
  static void from_kept(const Problem& p, int64_t begin, int64_t end) {
    const GradientAndInverse<P> results(p);
    for (int64_t b = begin; b < end; ++b) {
      const KeptFactors<const int32_t> kept(p.kept_integers, p.n, b);
      Space s = thread_space<Space>(p.n);
      if (!kept.are_usable(s.step_of)) {
        cofactor_matrices(p, b, b + 1);
        continue;
      }
      read_rows<0>(static_cast<const Number*>(p.kept) + b * p.n * p.n, p.n, s.F);
      s.lu.exchanged = kept.exchanged();
      std::copy(kept.rows(), kept.rows() + p.n, s.lu.row);
      s.frame.finite = true;
      s.frame.total = 0;
      for (int64_t i = 0; i < s.F.packs * W; ++i) {
        s.frame.rows()[i] = i < p.n ? kept.row_exponents()[i] : 0;
        s.frame.columns()[i] = i < p.n ? kept.column_exponents()[i] : 0;
        s.frame.total -= s.frame.rows()[i] + s.frame.columns()[i];
      }
      write_all(results, b, s, invert(s, static_cast<T>(kept.sign())));
    }
  }

 private:
  static void read(const BatchView& view, int64_t b, Space& s) {
    read_matrix<0>(view, b, s.X);
    equilibrate_rows<0>(s.X, s.frame, s.largest_of_column);
  }

  // X = Z from F; returns the product of the pivots but the last.
  static Scaled<Number> invert(Space& s, T sign) {
    const int64_t n = s.X.n;
    std::fill(s.pivots, s.pivots + s.X.packs, one<P>());
    for (int64_t k = 0; k + 1 < n; ++k) {
      set_number(s.pivots, k, s.F.get(k, k));
    }
    for (int64_t v = 0; v < s.X.packs; ++v) {
      s.reciprocal[v] = PivotQuotient<P>(s.pivots[v])(one<P>());
    }
    parallel(s.X.packs, n * n * W * 2 / 3, kGrainOfInverse,
             [&](int64_t begin, int64_t end) { solve_for_inverse(s, Range{begin, end}); });
    Scaled<Number> d = product_of(s.pivots, s.X.packs);
    d.mantissa = d.mantissa * sign;
    return d;
  }

  // X = Z, within a range of packs. reciprocal: of the pivots but the last, for which it is 1.
  static void solve_for_inverse(const Space& s, Range packs) {
    invert_unit_triangle<true>(s.F, s.X, packs);
    const int64_t last = s.X.n - 1;
    const P S = broadcast<P>(s.F.get(last, last));
    for (int64_t i = packs.begin * W; i < last; ++i) {
      for (int64_t v = packs.begin; v < std::min(packs.end, i / W + 1); ++v) {
        s.X.row(i)[v] = s.X.row(i)[v] * S;
      }
    }
    solve_triangular<false>(s.F, s.X, packs, [&](int64_t i, P& x) TORCHDET_LANE_LAMBDA {
      x = x * broadcast<P>(get_number(s.reciprocal, i));
    });
  }

  // d: the product of the pivots but the last. write() looks at X alone, so it says the same of
  // both results.
  static void write_all(const GradientAndInverse<P>& results, int64_t b, Space& s,
                        Scaled<Number> d) {
    bool in_range = true;
    for (const Problem* result : results) {
      in_range = write(*result, b, s, d);
    }
    for (const Problem* result : results) {  // RankRevealing takes the space
      if (!in_range) {
        RankRevealing<P>::cofactor_matrix(*result, b);
      }
    }
  }

  // P and Q put right, and the equilibration; false where an entry of X left the range.
  static bool write(const Problem& p, int64_t b, Space& s, Scaled<Number> d) {
    const int64_t n = p.n;
    const Scaled<Number> common = result_factor(p, b, d, s.F.get(n - 1, n - 1), s.frame);
    std::fill(s.factor, s.factor + s.X.packs, broadcast<P>(common.mantissa));
    auto* row_exponent = reinterpret_cast<Integer*>(s.row_exponent);
    for (int64_t k = 0; k < n; ++k) {
      row_exponent[k] = common.exponent + s.frame.rows()[s.lu.row[k]];
      s.step_of[k] = s.source_row[k] = static_cast<int32_t>(k);
    }
    std::swap(s.source_row[s.lu.exchanged], s.source_row[n - 1]);
    const InverseOrder<P> order = {s.step_of,      s.source_row,   s.lu.row,
                                   s.factor,       s.row_exponent, s.frame.column_exponent,
                                   s.column_factor};
    return write_inverse<0>(s.X, order, p.op, result_matrix<P>(p, b));
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
