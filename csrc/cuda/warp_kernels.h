// Kernels of the class "warp": several matrices per warp, in registers, by LU with partial pivoting
// of M = A^T (warp_matrix.h).
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

// What a pivot search compares: the leading bits of the size of an entry, rounded up, with the row
// in the last five. Rounding up keeps every number but 0 above 0; the multipliers are at most
// 1 + 2^-18 (float), 1 + 2^-15 (double).
template <typename R>
TORCHDET_DEVICE int32_t pivot_key(R size, int row) {
  constexpr int32_t kRowBits = 31;
  int32_t bits;
  if constexpr (sizeof(R) == 4) {
    bits = bits_of(size);
  } else {
    bits = static_cast<int32_t>((bits_of(size) + 0xffffffff) >> 32);
  }
  return ((bits + kRowBits) & ~kRowBits) | (kRowBits - row);
}
TORCHDET_DEVICE int row_of_key(int32_t key) {
  return 31 - (key & 31);
}

// What an elimination leaves behind: the determinant of M as mantissa and exponent.
template <typename V, int N>
class WarpElimination {
 public:
  using Matrix = WarpMatrix<V, N>;
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  static constexpr int kRows = Matrix::kRows, kPhase = 4;

  // The determinant is multiplied by 2^total, and by NaN where the poison is NaN.
  TORCHDET_DEVICE WarpElimination(Matrix& matrix, const Equilibration<V>& eq)
      : matrix_(matrix), mantissa_(add_poison(one<V>(), eq.poison)), exponent_(eq.total) {}

  // All n steps. The sign of the permutation is the parity of its inversions: a row counts the
  // finished rows behind it.
  TORCHDET_DEVICE Scaled<V> determinant() {
    int left = matrix_.n;
    for_steps<0, N / kPhase, true>([&](auto phase) {
      constexpr int kWidth = N - kPhase * decltype(phase)::value;
      TORCHDET_ROLL
      while (left > kWidth - kPhase) {
        step<kWidth>();
        --left;
      }
    });
    Scaled<V> d = normalise(mantissa_, exponent_);
    d.mantissa = odd_ ? -d.mantissa : d.mantissa;
    return d;
  }

 private:
  template <int kWidth>
  TORCHDET_DEVICE void step() {
    V(&m)[kRows][N] = matrix_.m;
    int32_t key = 0;
    TORCHDET_UNROLL
    for (int r = 0; r < kRows; ++r) {
      key = maximum(key, pivot_key(pivot_size(m[r][0]), matrix_.row_of(r)));
    }
    const int pivot_row = row_of_key(Matrix::reduce_maximum(key));
    const int source = thread_index() % kWarpSize - matrix_.lane + pivot_row / kRows;
    const auto pivot_entry = [&](int c) {  // entry c of the pivot row
      V x = m[0][c];
      TORCHDET_UNROLL
      for (int r = 1; r < kRows; ++r) {
        x = select(pivot_row % kRows == r, m[r][c], x);
      }
      return shuffle_number(x, source);
    };
    const V pivot = pivot_entry(0);
    const PivotQuotient<V> quotient(pivot);
    V multiplier[kRows];
    TORCHDET_UNROLL
    for (int r = 0; r < kRows; ++r) {
      // A complex quotient of equal numbers need not be exactly 1.
      multiplier[r] = select(matrix_.row_of(r) == pivot_row, one<V>(), quotient(m[r][0]));
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

// kDet and kSlogdet.
template <typename V, int N>
struct WarpDeterminants {
  using Matrix = WarpMatrix<V, N>;
  static constexpr Memory kMemory = Memory::kShared;
  static constexpr int kThreads = 128, kBlocksPerSm = N == 8 ? 5 : N == 16 ? 3 : 2;
  static constexpr int64_t kMatricesPerBlock = kThreads / Matrix::kLanes;
  static size_t block_bytes(int64_t) { return kMatricesPerBlock * Matrix::kSharedBytes; }

  TORCHDET_DEVICE static void run(const Problem& p) {
    // The first matrix of the warp, and that of the thread.
    int64_t first =
        block_index() * kMatricesPerBlock + thread_index() / kWarpSize * Matrix::kPerWarp;
    for (; first < p.batch; first += block_count() * kMatricesPerBlock) {
      const int64_t b = first + thread_index() % kWarpSize / Matrix::kLanes;
      Matrix matrix(static_cast<int>(p.n), thread_index() / Matrix::kLanes);
      matrix.read(p.A, b < p.batch ? b : p.batch - 1);
      IntegerOf<V> column[Matrix::kRows];
      const Equilibration<V> eq = matrix.equilibrate(column);
      const Scaled<V> d = WarpElimination<V, N>(matrix, eq).determinant();
      if (matrix.lane == 0 && b < p.batch) {
        write_determinant(p, b, d);
      }
    }
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
