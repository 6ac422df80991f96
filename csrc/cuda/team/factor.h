// What a team does to its matrix: equilibration, LDU, triangular solves, products of pivots.
// The formulas are those of math/equilibrate.h, math/ldu.h and math/hvp.h.
#pragma once

#include "team.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// Every pass is followed by a barrier; what the next pass reads is then there.
template <typename V, int kSize>
class TeamAlgorithms {
 public:
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  using Space = TeamSpace<V>;

  TORCHDET_DEVICE TeamAlgorithms(Team<kSize>& team, const Space& space)
      : team_(team), s_(space), v_(space.vectors), n_(space.A.n) {}

  TORCHDET_DEVICE void read(const BatchView& view, int64_t b) {
    const V* from = static_cast<const V*>(view.data) + view.offset(b);
    // Neighbouring threads read neighbouring numbers, whichever way the matrix lies.
    if (view.row_stride == 1) {
      team_.for_entries(0, n_, 0, n_,
                        [&](int j, int i) { s_.A(i, j) = from[i + j * view.column_stride]; });
    } else {
      team_.for_entries(0, n_, 0, n_, [&](int i, int j) {
        s_.A(i, j) = from[i * view.row_stride + j * view.column_stride];
      });
    }
    team_.sync();
  }

  // A <- 2^-r A 2^-c, with -r and -c in row and column.
  TORCHDET_DEVICE Equilibration<V> equilibrate() {
    return equilibrate(n_, [&](int i, int j) { return s_.A(i, j); });
  }
  // The same where A has the first `columns` columns only, and entry(i, j) all entries.
  template <typename Entry>
  TORCHDET_DEVICE Equilibration<V> equilibrate(int columns, Entry entry) {
    const auto moved = [](I e) { return e < kZeroExponentBound ? I(0) : -e; };
    const auto added = [](I x, I y) { return x + y; };
    I total = 0, largest = 0;
    team_.for_rows(n_, [&](int i) {
      I e = kZeroExponent;
      if (i < n_) {
        team_.for_columns(n_, [&](int j) { e = maximum(e, entry_exponent(entry(i, j))); });
      }
      e = team_.reduce_row(e, [](I x, I y) { return maximum(x, y); });
      largest = maximum(largest, e);
      if (i < n_ && team_.is_first_of_row()) {
        v_.row[i] = moved(e);
        total -= v_.row[i];
      }
    });
    team_.sync();
    team_.for_each(0, n_, [&](int j) {
      I e = kZeroExponent;
      TORCHDET_ROLL
      for (int i = 0; i < n_; ++i) {
        e = maximum(e, entry_exponent(entry(i, j)) + v_.row[i]);
      }
      v_.column[j] = moved(e);
      total -= v_.column[j];
    });
    total = team_.reduce(total, added);
    largest = team_.reduce(largest, [](I x, I y) { return maximum(x, y); });
    team_.for_entries(0, n_, 0, columns, [&](int i, int j) {
      s_.A(i, j) = scale_pow2(s_.A(i, j), v_.row[i] + v_.column[j]);
    });
    team_.sync();
    using T = ScalarOf<V>;
    const bool finite = largest <= Format<T>::kMaxExponent;
    return {total, finite ? T(-0.0) : std::numeric_limits<T>::quiet_NaN()};
  }

  // Factors A in place with complete pivoting, P A Q = L D U: multipliers below the diagonal, D on
  // it, unit U above it. Returns the sign of the permutations. The search for the next pivot is
  // part of the pass that makes its candidates.
  TORCHDET_DEVICE R factor() {
    const TeamMatrix<V>& A = s_.A;
    R sign = 1;
    Candidate<R> best = {R(-1), 0, 0};
    team_.for_each(0, n_, [&](int i) { v_.row_index[i] = v_.column_index[i] = i; });
    team_.for_entries(0, n_, 0, n_,
                      [&](int i, int j) { best = larger(best, {pivot_size(A(i, j)), i, j}); });
    for (int k = 0; k < n_; ++k) {
      best = team_.reduce(best, larger<R>);
      sign = best.row == k ? sign : -sign;
      if (best.column != k) {
        sign = -sign;
        team_.for_each(0, n_, [&](int i) { exchange(A(i, k), A(i, best.column)); });
      }
      if (team_.is_first()) {
        exchange(v_.row_index[k], v_.row_index[best.row]);
        exchange(v_.column_index[k], v_.column_index[best.column]);
      }
      team_.sync();
      if (best.row != k) {
        team_.for_each(0, n_, [&](int j) { exchange(A(k, j), A(best.row, j)); });
        team_.sync();
      }
      const PivotQuotient<V> quotient(A(k, k));
      team_.for_each(k + 1, n_, [&](int i) { A(i, k) = quotient(A(i, k)); });
      team_.sync();
      best = {R(-1), k + 1, k + 1};
      team_.for_entries(k + 1, n_, k + 1, n_, [&](int i, int j) {
        const V x = fnma(A(i, k), A(k, j), A(i, j));
        A(i, j) = x;
        best = larger(best, {pivot_size(x), i, j});
      });
      team_.sync();
      team_.for_each(k + 1, n_, [&](int j) { A(k, j) = quotient(A(k, j)); });
    }
    team_.sync();
    return sign;
  }

  // Product of the pivots A(k, k), of all but k = omitted.
  TORCHDET_DEVICE Scaled<V> product(int omitted = -1) {
    Scaled<V> own = scaled_one<V>();
    team_.for_each(0, n_, [&](int k) {
      if (k != omitted) {
        own = own * s_.A(k, k);
      }
    });
    return team_.reduce(own, [](const Scaled<V>& x, const Scaled<V>& y) { return x * y; });
  }

  // X <- diag(a) 2^-e with a_i = prod_{k != i} d_k, from the smallest pivot d_p: a_p = m, the
  // product of the others, and a_i = m d_p / d_i, a quotient of modulus at most 1. Returns e.
  TORCHDET_DEVICE I exclusive_products() {
    Candidate<R> smallest = {-std::numeric_limits<R>::infinity(), 0, 0};
    team_.for_each(0, n_,
                   [&](int k) { smallest = larger(smallest, {-pivot_size(s_.A(k, k)), k, 0}); });
    const int p = team_.reduce(smallest, larger<R>).row;
    const Scaled<V> m = product(p);
    team_.for_entries(0, n_, 0, n_, [&](int i, int j) {
      if (i == j) {
        const V ratio = i == p ? one<V>() : PivotQuotient<V>(s_.A(i, i))(s_.A(p, p));
        s_.X(i, j) = ratio * m.mantissa;
      } else {
        s_.X(i, j) = zero<V>();
      }
    });
    team_.sync();
    return m.exponent;
  }

  // X <- 2^-z P Z' Q with Z' = 2^-(r + c) Z and entries of at most 2; returns z.
  TORCHDET_DEVICE I read_direction(const BatchView& view, int64_t b) {
    const V* from = static_cast<const V*>(view.data) + view.offset(b);
    const auto entry = [&](int i, int j) {
      return from[i * view.row_stride + j * view.column_stride];
    };
    I z = kZeroExponent;
    team_.for_entries(0, n_, 0, n_, [&](int i, int j) {
      z = maximum(z, entry_exponent(entry(i, j)) + v_.row[i] + v_.column[j]);
    });
    z = team_.reduce(z, [](I x, I y) { return maximum(x, y); });
    z = z < kZeroExponentBound ? I(0) : z;
    team_.for_entries(0, n_, 0, n_, [&](int i, int j) {
      s_.X(v_.row_place[i], v_.column_place[j]) =
          scale_pow2(entry(i, j), v_.row[i] + v_.column[j] - z);
    });
    team_.sync();
    return z;
  }

  // X <- K of (1) in math/hvp.h for W = X, times 2^-e; returns e.
  TORCHDET_DEVICE I pair_products() {
    const TeamMatrix<V>& A = s_.A;
    const TeamMatrix<V>& X = s_.X;
    if (team_.is_first()) {
      *v_.rho =
          ExclusivePairProducts<V>([&](int64_t k) { return A(int(k), int(k)); }, n_, v_.x, v_.y);
    }
    team_.for_each(0, n_, [&](int k) { v_.diagonal[k] = X(k, k); });
    team_.sync();
    const ExclusivePairProducts<V> rho = *v_.rho;
    const V m = rho.common.mantissa;
    team_.for_entries(0, n_, 0, n_, [&](int i, int j) {
      if (i < j) {  // rho_ij = rho_ji; K_ij takes the place of W_ij, which K_ji needs
        const V product = rho(i, j), w = X(i, j);
        X(i, j) = -(product * X(j, i)) * m;
        X(j, i) = -(product * w) * m;
      }
    });
    team_.for_each(0, n_, [&](int i) {
      V sum = zero<V>();
      for (int k = 0; k < n_; ++k) {
        if (k != i) {
          sum = fma(rho(i, k), v_.diagonal[k], sum);
        }
      }
      X(i, i) = sum * m;
    });
    team_.sync();
    return rho.common.exponent;
  }

  // X <- L^-1 X U^-1, unit triangular, one column of L and one row of U at a time.
  TORCHDET_DEVICE void carry_in() {
    const TeamMatrix<V>& X = s_.X;
    for (int r = 0; r < n_; ++r) {
      team_.for_entries(r + 1, n_, 0, n_,
                        [&](int i, int j) { X(i, j) = fnma(s_.A(i, r), X(r, j), X(i, j)); });
      team_.sync();
    }
    for (int r = 0; r < n_; ++r) {
      team_.for_entries(0, n_, r + 1, n_,
                        [&](int i, int j) { X(i, j) = fnma(X(i, r), s_.A(r, j), X(i, j)); });
      team_.sync();
    }
  }

  // X <- L^-T X U^-T. kDiagonal: X starts as a diagonal, and L^-T X is an upper triangle.
  template <bool kDiagonal>
  TORCHDET_DEVICE void carry_back() {
    const TeamMatrix<V>& X = s_.X;
    for (int r = n_ - 1; r > 0; --r) {
      team_.for_entries(0, r, kDiagonal ? r : 0, n_,
                        [&](int i, int j) { X(i, j) = fnma(s_.A(r, i), X(r, j), X(i, j)); });
      team_.sync();
    }
    for (int r = n_ - 1; r > 0; --r) {
      team_.for_entries(0, n_, 0, r,
                        [&](int i, int j) { X(i, j) = fnma(X(i, r), s_.A(j, r), X(i, j)); });
      team_.sync();
    }
  }

  // Where the rows and columns of A have gone; for read_direction and write.
  TORCHDET_DEVICE void invert_permutations() {
    team_.for_each(0, n_, [&](int k) {
      v_.row_place[v_.row_index[k]] = k;
      v_.column_place[v_.column_index[k]] = k;
    });
    team_.sync();
  }

  // out = factor X with rows and columns back in their places and the equilibration undone.
  TORCHDET_DEVICE void write(const Problem& p, int64_t b, Scaled<V> factor, R poison) {
    V* out = static_cast<V*>(p.out) + b * n_ * n_;
    const bool conjugated = p.op == Op::kDetBackward || p.op == Op::kSlogdetBackward;
    team_.for_entries(0, n_, 0, n_, [&](int i, int j) {
      const V x = scale_pow2(s_.X(v_.row_place[i], v_.column_place[j]) * factor.mantissa,
                             factor.exponent + v_.row[i] + v_.column[j]);
      out[int64_t(i) * n_ + j] = add_poison(conjugated ? conj(x) : x, poison);
    });
    team_.sync();
  }

 private:
  template <typename X>
  TORCHDET_DEVICE static void exchange(X& x, X& y) {
    const X old = x;
    x = y;
    y = old;
  }

  Team<kSize>& team_;
  const Space& s_;
  const TeamVectors<V>& v_;
  const int n_;
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
