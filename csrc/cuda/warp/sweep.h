// Gauss-Jordan elimination of a matrix in registers: the cofactors of A = M^T (warp/matrix.h).
//
// E M = D, with E a product of eliminations and D a permuted diagonal: step k adds multiples of the
// pivot row p_k to all other rows, so that column k keeps u_k in row p_k alone, and
//     (M^-1)_{k, p_j} = E_{p_k, p_j} / u_k,   C(A)_{k, p_j} = det(A) E_{p_k, p_j} / u_k. (1)
// Step k touches E in column p_k only, beside those of earlier steps: the new column, 1 in row p_k
// and minus the multipliers in the others, takes the place of column k of M. As each step shifts
// the rows to the left, it goes to the end of them.
//
// The last pivot S enters by multiplication only: with P = u_1 .. u_{n-1}, and rows e of E before
// the last step, whose pivot row is p and whose multipliers would be b_i / S,
//     C(A) row k = P / u_k (S e_i - b_i e_p) for i = p_k,   C(A) row n = P e_p, (2)
// which is right at S = 0, too. So a matrix of rank n - 1 whose first pivots are not zero takes the
// same path as a regular one. Where an earlier pivot is zero, or a multiple overflows, the caller
// has to do something else.
#pragma once

#include "elimination.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// Of one matrix, in shared memory.
template <typename V, int N>
struct SweepLists {
  V pivot[N];                               // u_k
  int row[N];                               // p_k
  int step[N];                              // its inverse
  int row_exponent[N], column_exponent[N];  // -r and -c of a matrix that is equilibrated
};
// The same, and the result.
template <typename V, int N>
struct SweepSpace : SweepLists<V, N> {
  // Rows of C(A), at an odd stride, to be written in whole lines. One number more makes the spaces
  // of neighbouring matrices an odd stride apart: else they would all lie in the same banks.
  V result[N * (N | 1) + 1];
};

template <typename Matrix>
class WarpSweep {
 public:
  using V = typename Matrix::Number;
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  static constexpr int N = Matrix::kOrder, kRows = Matrix::kRows;
  using Lists = SweepLists<V, N>;
  using Pivoting = WarpPivoting<Matrix, true>;

  TORCHDET_DEVICE WarpSweep(Matrix& matrix, Lists& lists) : matrix_(matrix), lists_(lists) {}

  // All n steps; whether all pivots were moderate. Afterwards registers N - n + j hold the columns
  // p_j of (2), without P / u_k, and with replace(S) for S.
  template <typename Replace>
  TORCHDET_DEVICE bool run(Replace replace) {
    V(&m)[kRows][N] = matrix_.m;
    Pivoting pivoting(matrix_);
    V multiplier[kRows];
    TORCHDET_ROLL
    for (int k = 0; k + 1 < matrix_.n; ++k) {
      pivoting.template publish<N>(k);
      const V u = pivoting.entry();
      const Pivot<V> pivot(u);
      V last[kRows];
      TORCHDET_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const bool is_row = pivoting.is_row(r);
        multiplier[r] = select(is_row, zero<V>(), pivot.quotient(m[r][0]));
        last[r] = select(is_row, one<V>(), -multiplier[r]);
      }
      pivoting.template update<N>(multiplier);
      append(last);
      pivoting.multiply(pivot);
      pivoting.look_at(u);
      note(pivoting, k, u);
    }
    before_last_ = pivoting.product();
    is_regular_ = !pivoting.is_singular();
    pivoting.template publish<N>(matrix_.n - 1);
    last_ = pivoting.entry();
    const V s = replace(last_);
    V last[kRows], factor[kRows];
    TORCHDET_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const bool is_row = pivoting.is_row(r);
      factor[r] = select(is_row, one<V>(), s);
      multiplier[r] = select(is_row, zero<V>(), m[r][0]);
      last[r] = select(is_row, one<V>(), -m[r][0]);
    }
    // The pivot row is multiplied by 1: its entries are those of e_p.
    pivoting.template update<N>(multiplier, [&](int r, V x) { return x * factor[r]; });
    append(last);
    pivoting.look_at(last_);
    note(pivoting, matrix_.n - 1, s);
    before_last_.mantissa = before_last_.mantissa * pivoting.sign();
    sync_warp();
    return pivoting.is_moderate();
  }

  // Whether no pivot but the last was zero.
  TORCHDET_DEVICE bool is_regular() const { return is_regular_; }
  // S, and P with the sign of the permutation.
  TORCHDET_DEVICE V last_pivot() const { return last_; }
  TORCHDET_DEVICE Scaled<V> before_last() const { return before_last_; }
  TORCHDET_DEVICE Scaled<V> determinant() const { return before_last_ * last_; }

  // What (2) has without P, times the factor, row by row to shared memory; whether all of it is
  // finite, before the exponents go in.
  TORCHDET_DEVICE bool store(Scaled<V> factor, bool conjugates, bool is_scaled, V* result,
                             int stride) {
    const int n = matrix_.n;
    const int empty = N - n;  // registers without a column
    V scale[kRows];
    I exponent[kRows], rest[kRows];
    int step[kRows];
    I most = 0;
    TORCHDET_UNROLL
    for (int r = 0; r < kRows; ++r) {
      step[r] = matrix_.row_of(r) < n ? lists_.step[matrix_.row_of(r)] : 0;
      const Pivot<V> pivot(step[r] == n - 1 ? one<V>() : lists_.pivot[step[r]]);
      scale[r] = factor.mantissa * reciprocal(pivot.mantissa());
      const I e =
          factor.exponent - pivot.exponent() + (is_scaled ? lists_.row_exponent[step[r]] : 0);
      using F = Format<ScalarOf<V>>;
      exponent[r] = maximum(minimum(e, I(F::kMaxExponent)), I(F::kMinExponent));
      rest[r] = e - exponent[r];
      most = maximum(most, rest[r] < 0 ? -rest[r] : rest[r]);
    }
    R check = 0;
    TORCHDET_UNROLL
    for (int c = 0; c < N; ++c) {
      if (c >= empty) {
        const int column = lists_.row[c - empty];
        TORCHDET_UNROLL
        for (int r = 0; r < kRows; ++r) {
          V x = matrix_.m[r][c] * scale[r];
          check = matrix_.row_of(r) < n ? add_nothing(x, check) : check;
          x = x * exact_pow2<R>(exponent[r]);
          matrix_.m[r][c] = conjugates ? conj(x) : x;
        }
        TORCHDET_UNROLL
        for (int r = 0; r < kRows; ++r) {
          if (matrix_.row_of(r) < n) {
            result[step[r] * stride + column] = matrix_.m[r][c];
          }
        }
      }
    }
    // What one power of two cannot carry is carried by scale_pow2, which does nothing to the
    // others.
    if (any_in_warp(most != 0 || is_scaled)) {
      TORCHDET_ROLL
      for (int column = 0; column < n; ++column) {
        const int moved = is_scaled ? lists_.column_exponent[column] : 0;
        TORCHDET_UNROLL
        for (int r = 0; r < kRows; ++r) {
          if (matrix_.row_of(r) < n) {
            V& x = result[step[r] * stride + column];
            x = scale_pow2(x, rest[r] + moved);
          }
        }
      }
    }
    return check == R(0);
  }

  // The result from shared memory, in rows.
  TORCHDET_DEVICE void write(const V* result, int stride, V* out) const {
    const int n = matrix_.n;
    const bool wide = n % kRows == 0;
    if (matrix_.row_of(0) < n) {
      TORCHDET_ROLL
      for (int i = 0; i < n; ++i) {
        const V* from = result + i * stride + matrix_.row_of(0);
        V* to = out + i * n + matrix_.row_of(0);
        if (wide) {
          V number[kRows];
          TORCHDET_UNROLL
          for (int r = 0; r < kRows; ++r) {
            number[r] = from[r];
          }
          typename Matrix::LaneWord word;
          std::memcpy(&word, number, sizeof(word));
          *reinterpret_cast<typename Matrix::LaneWord*>(to) = word;
        } else {
          TORCHDET_UNROLL
          for (int r = 0; r < kRows; ++r) {
            if (matrix_.row_of(r) < n) {
              to[r] = from[r];
            }
          }
        }
      }
    }
  }

 private:
  // To the place at the end that an update leaves.
  TORCHDET_DEVICE void append(const V (&last)[kRows]) {
    TORCHDET_UNROLL
    for (int r = 0; r < kRows; ++r) {
      matrix_.m[r][N - 1] = last[r];
    }
  }

  TORCHDET_DEVICE void note(Pivoting& pivoting, int k, V u) {
    pivoting.count_inversions();
    pivoting.finish_row();
    if (matrix_.is_first()) {
      lists_.pivot[k] = u;
      lists_.row[k] = pivoting.row();
      lists_.step[pivoting.row()] = k;
    }
  }

  Matrix& matrix_;
  Lists& lists_;
  Scaled<V> before_last_ = scaled_one<V>();
  V last_ = zero<V>();
  bool is_regular_ = true;
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
