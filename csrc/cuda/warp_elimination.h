// Elimination of a matrix in registers: LU with partial pivoting of M = A^T (warp_matrix.h).
//
// Pivoting is implicit: no row moves. The pivot row is eliminated like the others, with a
// multiplier of exactly 1, and so becomes exactly 0 and is never chosen again. Each step shifts the
// rows to the left while it updates them: the pivot's column is always register 0, and the steps
// can be a loop although registers cannot be indexed. The loop comes in phases of four steps, in
// each of which the rows are four shorter.
#pragma once

#include "warp_matrix.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename V>
TORCHDET_DEVICE V shuffle_number(V x, int source) {
  if constexpr (kIsComplex<V>) {
    return {shuffle(x.re, source), shuffle(x.im, source)};
  } else {
    return shuffle(x, source);
  }
}

constexpr uint32_t kRowBits = 31;

// What a pivot search compares: the leading bits of the size of an entry, rounded up, with the row
// in the last five, or those of kMask. Rounding up keeps every number but 0 above 0; with five the
// multipliers are at most 1 + 2^-18 (float), 1 + 2^-15 (double).
template <uint32_t kMask = kRowBits, typename R>
TORCHDET_DEVICE int32_t pivot_key(R size, int row) {
  uint32_t bits;
  if constexpr (sizeof(R) == 4) {
    bits = static_cast<uint32_t>(bits_of(size));
  } else {
    bits = static_cast<uint32_t>((static_cast<uint64_t>(bits_of(size)) + 0xffffffff) >> 32);
  }
  return static_cast<int32_t>(((bits + kMask) & ~kMask) | (kMask - row));
}
template <uint32_t kMask = kRowBits>
TORCHDET_DEVICE int row_of_key(int32_t key) {
  return static_cast<int>(kMask - (key & kMask));
}

// What an elimination tells of its factors, for those who need them.
struct NoRecord {
  template <typename V>
  TORCHDET_DEVICE void pivot(int, int, V) const {}
  template <typename V>
  TORCHDET_DEVICE void upper(int, int, V) const {}
  template <typename V>
  TORCHDET_DEVICE void lower(int, int, V) const {}
};

template <typename Matrix>
class WarpElimination {
 public:
  using V = typename Matrix::Number;
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  static constexpr int N = Matrix::kOrder, kRows = Matrix::kRows, kPhase = 4;

  // The determinant is multiplied by 2^total, and by NaN where the poison is NaN.
  TORCHDET_DEVICE WarpElimination(Matrix& matrix, const Equilibration<V>& eq)
      : matrix_(matrix), mantissa_(add_poison(one<V>(), eq.poison)), exponent_(eq.total) {}

  // All n steps. The sign of the permutation is the parity of its inversions: a row counts the
  // finished rows behind it.
  //
  // record.pivot(k, row, u_kk) is called in all lanes; record.upper(k, c, u) for entry c of row k
  // of U, counted from the diagonal, in the lane that has it; record.lower(row, k, l) for the
  // multipliers of its rows in each lane.
  template <typename Record>
  TORCHDET_DEVICE Scaled<V> determinant(Record& record) {
    int left = matrix_.n;
    for_steps<0, N / kPhase, true>([&](auto phase) {
      constexpr int kWidth = N - kPhase * decltype(phase)::value;
      TORCHDET_ROLL
      while (left > kWidth - kPhase) {
        step<kWidth>(matrix_.n - left, record);
        --left;
      }
    });
    Scaled<V> d = normalise(mantissa_, exponent_);
    d.mantissa = d.mantissa * sign();
    return d;
  }
  TORCHDET_DEVICE R sign() const { return odd_ ? R(-1) : R(1); }

 private:
  template <int kWidth, typename Record>
  TORCHDET_DEVICE void step(int k, Record& record) {
    V(&m)[kRows][N] = matrix_.m;
    int32_t key = pivot_key(R(0), 0);  // where the others are NaN, whose keys may be negative
    TORCHDET_UNROLL
    for (int r = 0; r < kRows; ++r) {
      key = maximum(key, pivot_key(pivot_size(m[r][0]), matrix_.row_of(r)));
    }
    key = Matrix::reduce_maximum(key);
    // Where all rows left are 0 here, a finished one may have been chosen. It serves as well, but
    // for the last step: there the one row left is the number of ones that finished_ ends in.
    const int pivot_row =
        k + 1 < matrix_.n ? row_of_key(key) : count_bits(finished_ & ~(finished_ + 1));
    const int source = thread_index() % kWarpSize - matrix_.lane + pivot_row / kRows;
    const auto pivot_entry = [&](int c) {  // entry c of the pivot row
      V x = m[0][c];
      TORCHDET_UNROLL
      for (int r = 1; r < kRows; ++r) {
        x = select(pivot_row % kRows == r, m[r][c], x);
      }
      if (matrix_.lane == pivot_row / kRows) {
        record.upper(k, c, x);
      }
      return shuffle_number(x, source);
    };
    const V pivot = pivot_entry(0);
    record.pivot(k, pivot_row, pivot);
    const PivotQuotient<V> quotient(pivot);
    V multiplier[kRows];
    TORCHDET_UNROLL
    for (int r = 0; r < kRows; ++r) {
      // A complex quotient of equal numbers need not be exactly 1.
      multiplier[r] = select(matrix_.row_of(r) == pivot_row, one<V>(), quotient(m[r][0]));
      record.lower(matrix_.row_of(r), k, multiplier[r]);
    }
    TORCHDET_UNROLL
    for (int c = 1; c < kWidth; ++c) {
      const V u = pivot_entry(c);
      TORCHDET_UNROLL
      for (int r = 0; r < kRows; ++r) {
        m[r][c - 1] = fnma(multiplier[r], u, m[r][c]);
      }
    }
    TORCHDET_UNROLL
    for (int r = 0; r < kRows; ++r) {
      m[r][kWidth - 1] = zero<V>();
    }
    // Mantissas are below 2 (2 sqrt(2) in modulus where complex), so N of them need no care.
    const Scaled<V> d = normalise(pivot, I(0));
    mantissa_ = mantissa_ * d.mantissa;
    exponent_ = exponent_ + d.exponent;
    odd_ = odd_ != (count_bits(finished_ >> pivot_row) % 2 == 1);
    finished_ |= 1u << pivot_row;
  }

  Matrix& matrix_;
  V mantissa_;
  I exponent_;
  bool odd_ = false;
  unsigned finished_ = 0;
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
