// Elimination of a matrix in registers: LU with partial pivoting of M = A^T (warp/matrix.h).
//
// Pivoting is implicit: no row moves. Each step shifts the rows to the left while it updates them:
// the pivot's column is always register 0, and the steps can be a loop although registers cannot be
// indexed. The lane that owns the pivot row publishes it: it writes the row to a line of shared
// memory, from which all lanes of the matrix read it in words of 16 bytes. Two lines take turns: a
// line is written again two steps later, when the barrier of the step between has seen it read.
//
// What limits these kernels is the pipe for integers, comparisons and selections, half as wide as
// that for multiply-adds, and the latency of a step. Hence the care for single operations.
#pragma once

#include "../pivot.h"
#include "matrix.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// The search for pivots, in rows that are eliminated in place, and what pivots add up to. Rows that
// have been a pivot's are left out by finish_row() where kFinishes, else because they are 0.
template <typename Matrix, bool kFinishes>
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

  // Chooses the row for the columns of register 0, and publishes the first kWidth of its registers.
  // Steps come in ascending or in descending order.
  //
  // Rows compare by the leading bits of the size of their entry, rounded up, with the row in the
  // last six, the first row being the largest: one integer maximum. Rounding up keeps every number
  // but 0 above 0; multipliers are at most 1 + 2^-17 (float), 1 + 2^-14 (double). Rows beyond the
  // matrix are 0, and behind all others.
  //
  // No key is that of a NaN, which may wrap around. The rows that compete are finite: a matrix that
  // is not has become 0 (warp/matrix.h), and they grow by 2^64 at the most.
  template <int kWidth>
  TORCHDET_DEVICE void publish(int step) {
    uint32_t key = 0;
    TORCHDET_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const uint32_t size = rounded_size(pivot_size(matrix_.m[r][0])) | kLabel;
      key = maximum(key, kFinishes ? size & candidate_[r] : size - r);
    }
    if constexpr (!kFinishes) {
      key = matrix_.has_rows() ? key - matrix_.first_row : 0;
    }
    if constexpr (Matrix::kPerWarp == 1) {
      constexpr uint32_t kSign = 0x80000000u;
      key =
          static_cast<uint32_t>(reduce_maximum_in_warp(static_cast<int32_t>(key ^ kSign))) ^ kSign;
    } else {
      key = matrix_.reduce_maximum(key);
    }
    row_ = static_cast<int>(kLabel - (key & kLabel));
    line_ = matrix_.line + (step & 1) * Matrix::kOtherLine;
    place_ = row_ - matrix_.first_row;
    for_steps<0, kRows, true>([&](auto place) {
      constexpr int r = decltype(place)::value;
      if (is_row(r)) {
        TORCHDET_UNROLL
        for (int c = 0; c < kWidth; c += kCount) {
          Chunk<V> word;
          TORCHDET_UNROLL
          for (int x = 0; x < kCount; ++x) {
            word.x[x] = matrix_.m[r][c + x];
          }
          store_shared(line_ + c, word);
        }
      }
    });
    sync_warp();
  }

  TORCHDET_DEVICE int row() const { return row_; }
  TORCHDET_DEVICE bool is_row(int r) const { return place_ == r; }
  // The pivot.
  TORCHDET_DEVICE V entry() const { return load_shared<V>(line_); }
  // Every row less its multiple of the pivot row, one place to the left. prepare(r, x) is what
  // becomes of a number x of row r before.
  template <int kWidth, typename Prepare>
  TORCHDET_DEVICE void update(const V (&multiplier)[kRows], Prepare prepare) const {
    V(&m)[kRows][N] = matrix_.m;
    TORCHDET_UNROLL
    for (int c = 0; c < kWidth; c += kCount) {
      const Chunk<V> u = load_shared<Chunk<V>>(line_ + c);
      TORCHDET_UNROLL
      for (int x = c == 0 ? 1 : 0; x < kCount; ++x) {
        TORCHDET_UNROLL
        for (int r = 0; r < kRows; ++r) {
          m[r][c + x - 1] = fnma(multiplier[r], u.x[x], prepare(r, m[r][c + x]));
        }
      }
    }
  }
  template <int kWidth>
  TORCHDET_DEVICE void update(const V (&multiplier)[kRows]) const {
    update<kWidth>(multiplier, [](int, V x) { return x; });
  }
  // The row found is not looked at again.
  TORCHDET_DEVICE void finish_row() {
    TORCHDET_UNROLL
    for (int r = 0; r < kRows; ++r) {
      candidate_[r] = is_row(r) ? 0 : candidate_[r];
    }
  }

  // Mantissas are below 2 (2 sqrt(2) in modulus where complex) and at least 1, so N of them need no
  // care: (2 sqrt(2))^48 is 2^72.
  TORCHDET_DEVICE void multiply(const Pivot<V>& pivot) {
    mantissa_ = mantissa_ * pivot.mantissa();
    exponent_ = exponent_ + pivot.exponent();
  }
  // One instruction, and one register for two questions.
  TORCHDET_DEVICE void look_at(V pivot) {
    minus_least_ = maximum(minus_least_, -component_size(pivot));
  }
  // The sign of the permutation is the parity of its inversions: bit i of crossed_ is the parity of
  // the finished rows behind row i.
  TORCHDET_DEVICE void count_inversions() {
    inversions_ ^= static_cast<unsigned>(crossed_ >> row_);
    crossed_ ^= (Bits(1) << row_) - 1;
  }

  // Of the pivots so far, without the sign of the permutation.
  TORCHDET_DEVICE Scaled<V> product() const {
    return normalise(select(is_singular(), zero<V>(), mantissa_), exponent_);
  }
  TORCHDET_DEVICE R sign() const { return (inversions_ & 1) != 0 ? R(-1) : R(1); }
  // Whether a pivot was 0.
  TORCHDET_DEVICE bool is_singular() const { return minus_least_ == R(0); }
  // Condition (2) of warp/matrix.h.
  TORCHDET_DEVICE bool is_moderate() const { return minus_least_ <= -exact_pow2<R>(-Matrix::kFar); }

 private:
  using Bits = std::conditional_t<(N > 32), uint64_t, uint32_t>;
  static constexpr int kCount = Chunk<V>::kCount;
  static constexpr uint32_t kLabel = 63;
  static_assert(N <= kLabel + 1);

  TORCHDET_DEVICE static uint32_t rounded_size(R size) {
    if constexpr (sizeof(R) == 4) {
      return 2 * static_cast<uint32_t>(bits_of(size)) + kLabel;
    } else {
      constexpr uint64_t kBelow = (uint64_t(kLabel + 1) << 32) - 1;
      return static_cast<uint32_t>((2 * static_cast<uint64_t>(bits_of(size)) + kBelow) >> 32);
    }
  }

  Matrix& matrix_;
  // What is left of a key: all bits but those of the label, or none.
  uint32_t candidate_[kRows];
  int row_ = 0, place_ = 0;
  V* line_ = nullptr;
  V mantissa_ = one<V>();
  I exponent_ = 0;
  R minus_least_ = -std::numeric_limits<R>::infinity();  // of the sizes of pivots
  Bits crossed_ = 0;
  unsigned inversions_ = 0;
};

// d = det M, and whether all pivots were moderate. The pivot row is eliminated like the others,
// with a multiplier of exactly 1, and so becomes exactly 0 and is never chosen again before all
// others are. Where a pivot is 0, so is the determinant, whatever comes after. The loop comes in
// phases of four steps, in each of which the rows are four shorter.
template <typename Matrix>
TORCHDET_DEVICE bool eliminate(Matrix& matrix, Scaled<typename Matrix::Number>& d) {
  using V = typename Matrix::Number;
  constexpr int N = Matrix::kOrder, kRows = Matrix::kRows, kPhase = 4;
  V(&m)[kRows][N] = matrix.m;
  WarpPivoting<Matrix, false> pivoting(matrix);
  int left = matrix.n;
  for_steps<0, N / kPhase, true>([&](auto phase) {
    constexpr int kWidth = N - kPhase * decltype(phase)::value;
    TORCHDET_ROLL
    for (; left > kWidth - kPhase; --left) {
      pivoting.template publish<kWidth>(left);
      const V u = pivoting.entry();
      const Pivot<V> pivot(u);
      V multiplier[kRows];
      TORCHDET_UNROLL
      for (int r = 0; r < kRows; ++r) {
        multiplier[r] = pivot.quotient(m[r][0]);
        if constexpr (kIsComplex<V>) {  // whose quotients of equal numbers need not be exactly 1
          multiplier[r] = select(pivoting.is_row(r), one<V>(), multiplier[r]);
        }
      }
      pivoting.template update<kWidth>(multiplier);
      TORCHDET_UNROLL
      for (int r = 0; r < kRows; ++r) {
        m[r][kWidth - 1] = zero<V>();
      }
      pivoting.multiply(pivot);
      pivoting.look_at(u);
      pivoting.count_inversions();
    }
  });
  d = pivoting.product();
  d.mantissa = d.mantissa * pivoting.sign();
  return pivoting.is_moderate();
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
