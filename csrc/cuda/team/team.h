// A team of threads that owns one matrix: a warp, or a whole block.
//
// The matrix lies in memory that all threads of the team see (shared, or global for the largest
// orders), and every algorithm is a sequence of passes over entries with a barrier between. Within
// a pass the team is a grid of rows x columns of threads, dealt out cyclically, so that any
// rectangle of entries keeps all of them busy. Barriers are what takes the time, and most kernels
// have a team for rare matrices alone. So its loops stay loops: unrolled they were half the code.
#pragma once

#include "../results.h"

#include "../../math/hvp.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// A position in the matrix and the size of the entry there.
template <typename R>
struct Candidate {
  R size;
  int row, column;
};
// The larger entry, of equal ones the first in row-major order: the choice does not depend on who
// compares what first.
template <typename R>
TORCHDET_DEVICE Candidate<R> larger(const Candidate<R>& a, const Candidate<R>& b) {
  const bool b_first = b.row < a.row || (b.row == a.row && b.column < a.column);
  return b.size > a.size || (b.size == a.size && b_first) ? b : a;
}

// shuffle_xor for what is made of several numbers.
template <typename R>
TORCHDET_DEVICE Complex<R> shuffle_xor(const Complex<R>& x, int mask) {
  return {shuffle_xor(x.re, mask), shuffle_xor(x.im, mask)};
}
template <typename R>
TORCHDET_DEVICE Candidate<R> shuffle_xor(const Candidate<R>& x, int mask) {
  return {shuffle_xor(x.size, mask), shuffle_xor(x.row, mask), shuffle_xor(x.column, mask)};
}
template <typename V>
TORCHDET_DEVICE Scaled<V> shuffle_xor(const Scaled<V>& x, int mask) {
  return {shuffle_xor(x.mantissa, mask), shuffle_xor(x.exponent, mask)};
}

template <int kSize>
class Team {
 public:
  static constexpr bool kIsWarp = kSize == kWarpSize;
  static constexpr int kColumns = kIsWarp ? 8 : 16, kRows = kSize / kColumns;
  static constexpr int kWarps = kSize / kWarpSize;
  // Room for one number of each warp, twice, for anything that reduce() is used for.
  static constexpr int kSlotBytes = 32, kAllSlotBytes = kIsWarp ? 0 : 2 * kWarps * kSlotBytes;

  TORCHDET_DEVICE explicit Team(unsigned char* slots)
      : rank_(thread_index() % kSize), slots_(slots) {}

  TORCHDET_DEVICE bool is_first() const { return rank_ == 0; }

  TORCHDET_DEVICE static void sync() {
    if constexpr (kIsWarp) {
      sync_warp();
    } else {
      sync_block();
    }
  }

  // body(t) for t in [begin, end), dealt out over the team.
  template <typename Body>
  TORCHDET_DEVICE void for_each(int begin, int end, Body body) const {
    TORCHDET_ROLL
    for (int t = begin + rank_; t < end; t += kSize) {
      body(t);
    }
  }
  // body(i, j) for the entries of a rectangle.
  template <typename Body>
  TORCHDET_DEVICE void for_entries(int row_begin, int row_end, int column_begin, int column_end,
                                   Body body) const {
    TORCHDET_ROLL
    for (int i = row_begin + rank_ / kColumns; i < row_end; i += kRows) {
      TORCHDET_ROLL
      for (int j = column_begin + rank_ % kColumns; j < column_end; j += kColumns) {
        body(i, j);
      }
    }
  }

  // The same with a reduction along rows: body(i) in all threads of row i of the grid, which take
  // the columns j of for_columns; i may be n or more, so that all threads stay together.
  template <typename Body>
  TORCHDET_DEVICE void for_rows(int n, Body body) const {
    TORCHDET_ROLL
    for (int i = rank_ / kColumns; i - rank_ / kColumns < n; i += kRows) {
      body(i);
    }
  }
  template <typename Body>
  TORCHDET_DEVICE void for_columns(int n, Body body) const {
    TORCHDET_ROLL
    for (int j = rank_ % kColumns; j < n; j += kColumns) {
      body(j);
    }
  }
  template <typename X, typename Combine>
  TORCHDET_DEVICE static X reduce_row(X x, Combine combine) {
    TORCHDET_ROLL
    for (int mask = kColumns / 2; mask > 0; mask /= 2) {
      x = combine(x, shuffle_xor(x, mask));
    }
    return x;
  }
  TORCHDET_DEVICE bool is_first_of_row() const { return rank_ % kColumns == 0; }

  // combine() over the values of all threads, the same in each. Also a barrier. The slots
  // alternate: those of a call are written again two calls later, when the barrier of the next
  // call has seen them read.
  template <typename X, typename Combine>
  TORCHDET_DEVICE X reduce(X x, Combine combine) {
    TORCHDET_ROLL
    for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
      // In the order of the lanes, or complex products would round differently in each.
      const X other = shuffle_xor(x, mask);
      x = (rank_ & mask) == 0 ? combine(x, other) : combine(other, x);
    }
    if constexpr (kIsWarp) {
      sync();
    } else {
      static_assert(sizeof(X) <= kSlotBytes);
      X* slots = reinterpret_cast<X*>(slots_ + turn_ * kWarps * kSlotBytes);
      turn_ = 1 - turn_;
      if (rank_ % kWarpSize == 0) {
        slots[rank_ / kWarpSize] = x;
      }
      sync();
      x = slots[0];
      TORCHDET_ROLL
      for (int w = 1; w < kWarps; ++w) {
        x = combine(x, slots[w]);
      }
    }
    return x;
  }

 private:
  int rank_;
  unsigned char* slots_;
  int turn_ = 0;
};

template <typename V>
struct TeamMatrix {
  V* data;
  int n, stride;

  // In shared memory matrices have an odd stride, so that columns too spread over all banks.
  TORCHDET_ANYWHERE static int odd_stride(int64_t n) { return static_cast<int>(n | 1); }

  TORCHDET_DEVICE V& operator()(int i, int j) const { return data[int64_t(i) * stride + j]; }
};

// Memory cut into pieces. Without memory it only counts the bytes.
class Arena {
 public:
  TORCHDET_ANYWHERE explicit Arena(unsigned char* memory) : memory_(memory) {}
  template <typename X>
  TORCHDET_ANYWHERE X* take(int64_t count) {
    constexpr size_t kAlignment = 16;
    X* piece = memory_ == nullptr ? nullptr : reinterpret_cast<X*>(memory_ + bytes);
    bytes += (sizeof(X) * count + kAlignment - 1) / kAlignment * kAlignment;
    return piece;
  }
  template <typename V>
  TORCHDET_ANYWHERE TeamMatrix<V> take_matrix(int n) {
    const int stride = TeamMatrix<V>::odd_stride(n);
    return {take<V>(int64_t(n) * stride), n, stride};
  }

  size_t bytes = 0;

 private:
  unsigned char* memory_;
};

// What goes with the matrices of a team.
template <typename V>
struct TeamVectors {
  using I = IntegerOf<V>;
  I *row, *column;                // equilibration exponents -r and -c of the rows and columns of A
  int *row_index, *column_index;  // original row and column at each place of the factored matrix
  int *row_place, *column_place;  // and the way back
  V *x, *y, *diagonal;
  ExclusivePairProducts<V>* rho;
  unsigned char* slots;

  TeamVectors() = default;
  TORCHDET_ANYWHERE TeamVectors(Arena& arena, int n, int slot_bytes)
      : row(arena.take<I>(n)),
        column(arena.take<I>(n)),
        row_index(arena.take<int>(n)),
        column_index(arena.take<int>(n)),
        row_place(arena.take<int>(n)),
        column_place(arena.take<int>(n)),
        x(arena.take<V>(n)),
        y(arena.take<V>(n)),
        diagonal(arena.take<V>(n)),
        rho(arena.take<ExclusivePairProducts<V>>(1)),
        slots(arena.take<unsigned char>(slot_bytes)) {}
};

// The matrix A of a team, a second one, and their vectors.
template <typename V>
struct TeamSpace {
  TeamMatrix<V> A, X;
  TeamVectors<V> vectors;

  TORCHDET_ANYWHERE TeamSpace(Arena& arena, int n, int slot_bytes)
      : A(arena.take_matrix<V>(n)), X(arena.take_matrix<V>(n)), vectors(arena, n, slot_bytes) {}
  TORCHDET_ANYWHERE TeamSpace(TeamMatrix<V> a, TeamMatrix<V> x, const TeamVectors<V>& v)
      : A(a), X(x), vectors(v) {}
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
