// Hessian-vector products of the class "rows": H[Z], the derivative of the cofactors, from a sweep.
//
// Write B, up to the order of its rows and columns, in blocks (E, e) over (g^T, b), where S = b -
// g^T E^-1 e is the last pivot. Before its last step a sweep (rows/gauss_jordan.h) holds E^-1. With
// X that inverse, bordered by a zero row and a zero column,
//     B^-1 = X + u v^T / S,   u = (-E^-1 e, 1),   v^T = (-g^T E^-1, 1),   det B = D S,   D = det E.
// In H[Z]^T = det B (tr(B^-1 Z) B^-1 - B^-1 Z B^-1) all terms with 1 / S cancel, which leaves
//     H[Z]^T = D ((S t + a) X - S X Z X + (t u - X Z u) v^T - u v^T Z X),
//     t = tr(X Z),  a = v^T Z u. (1)
// S enters by multiplication only, so a matrix of rank n - 1 is like any other.
//
// What can go wrong is that X is large, near rank n - 2, or u and v, where the pivots are chosen
// badly. In the terms of X, u and v an error of the sweep, eps |X| |B| relative to X, shows as
//     D eps |B| |X| (|S| |X|^2 + |u| |v| |X|) |Z|.
// The unit of a second derivative is n eps |Z| (p_(n-2) + |B| p_(n-3)) or more, p_k being the
// product of the k largest singular values of B. No minor of order k is larger than p_k. Numbers of
// D X are minors of order n - 2. The first n - 3 pivots make a minor as well, D / (d d') with d and
// d' the last two pivots of E. So the error is, in units, at most of the order of
//     |B| |X| (|S| |X| + |u| |v|) / (n max(1, |B| / (|X| |d d'|))). (2)
// The 1 alone would refuse every matrix whose singular values fall evenly from large to small ones,
// as those of smooth functions do. The other term asks only that the two smallest singular values
// of E are not far apart.
// Where that is too large, the rank-revealing LDU takes over.
#pragma once

#include "../fallback/rank_revealing.h"
#include "gauss_jordan.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename P, int kPacks, int kMaxPacks, int kGroup>
class RowsHvp {
 public:
  using Elimination = GaussJordan<P, kPacks, kMaxPacks, kGroup>;
  using M = RowMatrix<P>;
  using T = typename Elimination::T;
  using R = typename Elimination::R;
  using I = typename Elimination::I;
  using Number = typename Elimination::Number;
  using Integer = typename Elimination::Integer;
  static constexpr int W = Elimination::W;
  using Alone = RowsHvp<P, 0, std::max(kMaxPacks, kOrderOfWord / W), 1>;

  // kDetHvp and kDetBackwardJvp.
  static void det_hvp(const Problem& p, int64_t begin, int64_t end) {
    // RankRevealing takes the thread's scratch between two groups: enough for it, lest it moves.
    const size_t bytes = std::max(space_bytes<Space>(p.n), space_bytes<RankRevealing<P>>(p.n));
    Arena arena(thread_scratch(bytes));
    RowsHvp work(static_cast<int>(p.n), Space(p.n, arena));
    int64_t first = begin;
    for (; first + kGroup <= end; first += kGroup) {
      bool left[kGroup];
      work.elimination_.read(p.A, first);
      expect_results<P>(p, first, kGroup);
      work.elimination_.template run<true>();
      for (int m = 0; m < kGroup; ++m) {
        const auto& f = work.elimination_.facts[m];
        left[m] = !f.frame.finite || f.no_cofactors || !work.write(p, first + m, m);
      }
      for (int m = 0; m < kGroup; ++m) {
        if (left[m]) [[unlikely]] {
          RankRevealing<P>::det_hvp_matrix(p, first + m);
        }
      }
    }
    if (kGroup > 1 && first < end) {
      Alone::det_hvp(p, first, end);
    }
  }

 private:
  struct Space {
    P* elimination;
    M Z, from, XZX;
    Space(int64_t n, Arena& arena)
        : elimination(arena.take<P>(kGroup * n * M::packs_for(n))),
          Z(take_matrix<P>(n, arena)),
          from(take_matrix<P>(n, arena)),
          XZX(take_matrix<P>(n, arena)) {}
  };
  const int n;
  Elimination elimination_;
  const M Z_, from_, XZX_;
  P u_[kMaxPacks], v_[kMaxPacks];  // u in the order of the steps, v of the columns

  RowsHvp(int order, const Space& space)
      : n(order),
        elimination_(order, space.elimination),
        Z_(space.Z),
        from_(space.from),
        XZX_(space.XZX) {}

  TORCHDET_LANE int packs() const { return elimination_.packs(); }

  // Writes the result of matrix b, number m of the group; false if (2) is too large or the result
  // is not finite.
  bool write(const Problem& p, int64_t b, int m) {
    const auto& f = elimination_.facts[m];
    const M X = elimination_.matrix(m);
    if (!take_inverse(m, X)) {
      return false;
    }
    // Rows of a product are sums of rows of its right factor, which go in the order of the columns
    // of the left one.
    read_matrix<kPacks>(p.other, b, Z_);
    const Integer z = scale_direction(Z_, f.frame, [&](int64_t k) { return f.row[k]; });
    for (int k = 0; k < n; ++k) {
      copy(Z_.row(f.row[k]), from_.row(f.column[k]));
    }
    const M& XZ = Z_;  // and v^T Z below; negative
    negative_product(X, from_, XZ);
    const int last = f.column[n - 1];
    Number t = zero<Number>();
    for (int k = 0; k + 1 < n; ++k) {
      t = fnma(one<Number>(), XZ.get(k, f.column[k]), t);
      copy(X.row(k), from_.row(f.column[k]));
      from_.set(f.column[k], last, get_number(u_, k));
    }
    std::fill(from_.row(last), from_.row(last) + packs(), zero<P>());
    from_.set(last, last, one<Number>());
    negative_product(XZ, from_, XZX_);  // and X Z u, v^T Z X and v^T Z u beside and below
    const JvpFactors<Number> jvp = jvp_factors<P>(p, b, z);
    add_terms(X, last, elimination_.last_pivot(m), t, jvp);

    const Scaled<Number> D = elimination_.product(m, false);
    P factor[kMaxPacks];
    I row_exponent[kMaxPacks];
    const Integer exponent = D.exponent + f.frame.total + jvp.exponent - shift_of<T>(p, b);
    for (int v = 0; v < packs(); ++v) {
      factor[v] = broadcast<P>(D.mantissa);
      row_exponent[v] = I(exponent) + f.row_exponent[v];
    }
    int32_t step_of[Elimination::kMaxOrder];
    for (int k = 0; k < n; ++k) {
      step_of[f.column[k]] = k;
    }
    R column_factor[kMaxPacks];
    const InverseOrder<P> order = {step_of,      step_of,           f.row,        factor,
                                   row_exponent, f.column_exponent, column_factor};
    return write_inverse<kPacks>(X, order, p.op, result_matrix<P>(p, b));
  }

  // From the sweep of matrix m: X in its place, with v for its last row, which is zero; u and v.
  // False where (2) is too large.
  TORCHDET_LANE bool take_inverse(int m, const M& X) {
    const auto& f = elimination_.facts[m];
    const int last = f.column[n - 1];
    // Column p_s lacks the factor -1 / d_s, and the last one is -u.
    P factor[kMaxPacks], reciprocal[kMaxPacks];
    for (int v = 0; v < packs(); ++v) {
      reciprocal[v] = -PivotQuotient<P>(f.pivot[v])(one<P>());
      factor[v] = u_[v] = zero<P>();
    }
    for (int k = 0; k + 1 < n; ++k) {
      set_number(factor, f.column[k], get_number(reciprocal, k));
      set_number(u_, k, -X.get(k, last));
    }
    set_number(u_, n - 1, one<Number>());
    I largest_of_X = I(0), largest_of_u = I(0), largest_of_v = I(0);
    for (int k = 0; k + 1 < n; ++k) {
      for (int v = 0; v < packs(); ++v) {
        const P x = X.row(k)[v] * factor[v];
        X.row(k)[v] = x;
        largest_of_X = maximum(largest_of_X, component_bits(x));
      }
    }
    for (int v = 0; v < packs(); ++v) {
      const P x = X.row(n - 1)[v] * factor[v];
      v_[v] = X.row(n - 1)[v] = select(Elimination::is_column(last, v), one<P>(), x);
      largest_of_v = maximum(largest_of_v, component_bits(v_[v]));
      largest_of_u = maximum(largest_of_u, component_bits(u_[v]));
    }
    // As integers, NaN is larger than any number.
    const T uv = largest_number(largest_of_u) * largest_number(largest_of_v);
    const auto size_of_pivot = [&](int k) { return component_size(get_number(f.pivot, k)); };
    return inverse_serves_hvp(n, T(f.frame.largest), largest_number(largest_of_X),
                              component_size(elimination_.last_pivot(m)), uv, size_of_pivot(n - 2),
                              size_of_pivot(n - 3));
  }

  // (1), without D, in place of X. The cofactors, of which a multiple is added, are what t is
  // multiplied by: C^T = D (S X + u v^T).
  TORCHDET_LANE void add_terms(const M& X, int last, Number S, Number trace,
                               const JvpFactors<Number>& jvp) const {
    const Number h = jvp.of_hvp, t = fma(h, trace, jvp.of_cofactor);
    P vZX[kMaxPacks];
    for (int v = 0; v < packs(); ++v) {
      vZX[v] = select(Elimination::is_column(last, v), zero<P>(), XZX_.row(n - 1)[v]);
    }
    const P factor_of_X = broadcast<P>(fma(S, t, h * XZX_.get(n - 1, last)));
    const P factor_of_XZX = broadcast<P>(h * S), factor_of_last = broadcast<P>(h);
    for (int k = 0; k + 1 < n; ++k) {
      const Number u = get_number(u_, k);
      const P of_vZX = broadcast<P>(h * u);
      const P of_v = broadcast<P>(-fnma(t, u, h * XZX_.get(k, last)));
      for (int v = 0; v < packs(); ++v) {
        const P y = select(Elimination::is_column(last, v), zero<P>(), XZX_.row(k)[v]);
        P x = fnma(factor_of_XZX, y, factor_of_X * X.row(k)[v]);
        x = fma(of_v, v_[v], x);
        X.row(k)[v] = fnma(of_vZX, vZX[v], x);
      }
    }
    for (int v = 0; v < packs(); ++v) {
      X.row(n - 1)[v] = -fnma(broadcast<P>(t), v_[v], factor_of_last * vZX[v]);
    }
  }

  TORCHDET_LANE void copy(const P* from, P* to) const { std::copy(from, from + packs(), to); }
  TORCHDET_LANE static T largest_number(I bits) { return from_bits(I(largest_lane(bits)))[0]; }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
