// Elimination of a matrix in registers: LU with partial pivoting of M = A^T (warp/matrix.h).
//
// Pivoting is implicit: no row moves. Each step shifts the rows to the left while it updates them:
// the pivot's column is always register 0, and the steps can be a loop although registers cannot be
// indexed.
//
// What limits these kernels is the pipe for integers, comparisons and selections, half as wide as
// that for multiply-adds, and the latency of a step. Hence the care for single operations.
#pragma once

#include "../pivot.h"
#include "matrix.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// The search for pivots, in rows that are eliminated in place, and what pivots add up to.
template <typename Matrix>
class WarpPivoting {
 public:
  using V = typename Matrix::Number;
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  static constexpr int N = Matrix::kOrder, kRows = Matrix::kRows;

  TORCHDET_DEVICE explicit WarpPivoting(Matrix& matrix) : matrix_(matrix) {
    TORCHDET_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const int row = matrix_.row_of(r);
      candidate_[r] = row < matrix_.n ? ~kLabel | (kLabel - row) : 0;
    }
  }

  // Chooses the row for the columns of register 0. Rows compare by the leading bits of the size of
  // their entry, rounded up, with the row in the last six, the first row being the largest: one
  // integer maximum. Rounding up keeps every number but 0 above 0; multipliers are at most 1 +
  // 2^-17 (float), 1 + 2^-14 (double).
  TORCHDET_DEVICE void search() {
    uint32_t key = 0;
    TORCHDET_UNROLL
    for (int r = 0; r < kRows; ++r) {
      key = maximum(key, (rounded_size(pivot_size(matrix_.m[r][0])) | kLabel) & candidate_[r]);
    }
    key = Matrix::reduce_maximum(key);
    row_ = static_cast<int>(kLabel - (key & kLabel));
    place_ = row_ % kRows;
    source_ = thread_index() % kWarpSize - matrix_.lane + row_ / kRows;
  }

  TORCHDET_DEVICE int row() const { return row_; }
  TORCHDET_DEVICE bool is_row(int r) const { return matrix_.row_of(r) == row_; }
  // Entry c of the pivot row, counted from register 0.
  TORCHDET_DEVICE V entry(int c) const {
    V x = matrix_.m[0][c];
    TORCHDET_UNROLL
    for (int r = 1; r < kRows; ++r) {
      x = select(place_ == r, matrix_.m[r][c], x);
    }
    return shuffle_number(x, source_);
  }
  // The row found is not looked at again.
  TORCHDET_DEVICE void finish_row() {
    TORCHDET_UNROLL
    for (int r = 0; r < kRows; ++r) {
      candidate_[r] = is_row(r) ? 0 : candidate_[r];
    }
  }

  // Mantissas are below 2 (2 sqrt(2) in modulus where complex) and at least 1, so N of them need no
  // care.
  TORCHDET_DEVICE void multiply(const Pivot<V>& pivot) {
    mantissa_ = mantissa_ * pivot.mantissa();
    exponent_ = exponent_ + pivot.exponent();
    is_singular_ = is_singular_ || pivot.is_zero;
  }
  // The sign of the permutation is the parity of its inversions: bit i of crossed_ is the parity of
  // the finished rows behind row i.
  TORCHDET_DEVICE void count_inversions() {
    inversions_ ^= crossed_ >> row_;
    crossed_ ^= (1u << row_) - 1;
  }

  // Of the pivots so far, without the sign of the permutation.
  TORCHDET_DEVICE Scaled<V> product() const {
    return normalise(select(is_singular_, zero<V>(), mantissa_), exponent_);
  }
  TORCHDET_DEVICE R sign() const { return (inversions_ & 1) != 0 ? R(-1) : R(1); }
  TORCHDET_DEVICE bool is_singular() const { return is_singular_; }

 private:
  static constexpr uint32_t kLabel = 63;

  TORCHDET_DEVICE static uint32_t rounded_size(R size) {
    if constexpr (sizeof(R) == 4) {
      return 2 * static_cast<uint32_t>(bits_of(size)) + kLabel;
    } else {
      constexpr uint64_t kBelow = (uint64_t(kLabel + 1) << 32) - 1;
      return static_cast<uint32_t>((2 * static_cast<uint64_t>(bits_of(size)) + kBelow) >> 32);
    }
  }

  Matrix& matrix_;
  // What is left of a key: all of it, or nothing, of finished rows, and of those beyond the matrix,
  // which an infinite pivot row makes NaN.
  uint32_t candidate_[kRows];
  int row_ = 0, place_ = 0, source_ = 0;
  V mantissa_ = one<V>();
  I exponent_ = 0;
  bool is_singular_ = false;
  unsigned crossed_ = 0, inversions_ = 0;
};

// det M. The pivot row is eliminated like the others, with a multiplier of exactly 1, and so
// becomes exactly 0 and is never chosen again before all others are. Where a pivot is 0, so is the
// determinant, whatever comes after. The loop comes in phases of four steps, in each of which the
// rows are four shorter.
template <typename Matrix>
TORCHDET_DEVICE Scaled<typename Matrix::Number> eliminate(Matrix& matrix) {
  using V = typename Matrix::Number;
  constexpr int N = Matrix::kOrder, kRows = Matrix::kRows, kPhase = 4;
  V(&m)[kRows][N] = matrix.m;
  WarpPivoting<Matrix> pivoting(matrix);
  int left = matrix.n;
  for_steps<0, N / kPhase, true>([&](auto phase) {
    constexpr int kWidth = N - kPhase * decltype(phase)::value;
    TORCHDET_ROLL
    for (; left > kWidth - kPhase; --left) {
      pivoting.search();
      const Pivot<V> pivot(pivoting.entry(0));
      V multiplier[kRows];
      TORCHDET_UNROLL
      for (int r = 0; r < kRows; ++r) {
        multiplier[r] = pivot.quotient(m[r][0]);
        if constexpr (kIsComplex<V>) {  // whose quotients of equal numbers need not be exactly 1
          multiplier[r] = select(pivoting.is_row(r), one<V>(), multiplier[r]);
        }
      }
      TORCHDET_UNROLL
      for (int c = 1; c < kWidth; ++c) {
        const V u = pivoting.entry(c);
        TORCHDET_UNROLL
        for (int r = 0; r < kRows; ++r) {
          m[r][c - 1] = fnma(multiplier[r], u, m[r][c]);
        }
      }
      TORCHDET_UNROLL
      for (int r = 0; r < kRows; ++r) {
        m[r][kWidth - 1] = zero<V>();
      }
      pivoting.multiply(pivot);
      pivoting.count_inversions();
    }
  });
  Scaled<V> d = pivoting.product();
  d.mantissa = d.mantissa * pivoting.sign();
  return d;
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
