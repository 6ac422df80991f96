// A matrix in the registers of a few neighbouring lanes of a warp: the class "warp".
//
// Each lane holds R adjacent columns of A, so that the lanes of a matrix read rows of A in whole
// lines. These columns are the rows of M = A^T, which is what is factored: det M = det A and
// C(M) = C(A)^T. Each lane thus owns whole rows of M, and an elimination step is arithmetic within
// the lane. What has to travel is one pivot row, once for R rows that use it.
//
// Orders up to N share the code for N: rows and columns of M beyond n are zero and no step is
// spent on them. Registers cannot be indexed, so every loop over m has constant bounds.
//
// Most matrices are eliminated as they come, others after equilibration (math/equilibrate.h). Both
// choose the pivot of a column by size alone. A matrix is trusted to the first way if
//     (1) the sums of its columns are at most 2^F, F = E / 4 with E the exponent range, and within
//         2^K, K = kBalance, of each other,
//     (2) no pivot is below 2^-F.
// Why that is enough, for B = 2^-r A 2^-c with r_j the exponent of the largest entry of row j of A
// and c_i that of column i afterwards:
//
// Growth. All c_i are at most 0. The largest entry of column i is at least 2^-K max|A| / n, and
// max|A| is at least that of any row, so c_i > -K - log2(n) - 2 whatever the scales of the rows
// of A are. They scale columns of M, which changes neither a choice of a pivot nor, but for the
// range, a rounding. Beside those of B, multipliers are thus larger by 2^(K + log2(n) + 2) at the
// most, and only in columns of A that are that much smaller than max|A| in all their entries.
// Equilibrated matrices were always accepted with K = 4 (math/equilibrate.h).
//
// Overflow. Multipliers are at most 1 + 2^-14 (real) or sqrt(2) (1 + 2^-14) in modulus (complex),
// so that a step makes entries larger by factors of 2.1 or 2.5: by 2^67 at n = 64, 2^64 at n = 48.
// 2^F times that is below 2^E. NaN and infinity make a sum so, which (1) does not allow.
//
// Underflow. Let t be the smallest subnormal number. An update of column j of M is off by t / 2
// more than its rounding, and by t |u_j| where the multiplier underflows, with u_j an entry of the
// same column; complex ones by 4 times that. Entries of column j are at most 2^(r_j + 1), those
// that follow at most 2^67 times as large. Hence t |u_j| <= 2^(68 + r_j) t, which is below
// 2^-50 eps 2^r_j. And since the pivot of column j is at least 2^-F, 2^r_j >= 2^(-F - 68): the n
// updates by t / 2 of an entry are at most 2^-10 eps 2^r_j. In the frame of B an entry is larger by
// 2^(K + log2(n) + 2) = 2^12 at the most, and is one of column i, whose largest entry is so, too.
// So underflow perturbs B by less than its rounding does.
//
// A zero pivot violates (2): then the matrix is equilibrated, where 0 can only be what is 0.
#pragma once

#include "../results.h"

#include "../../math/equilibrate.h"
#include "../../math/scaled.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// Numbers in 16 bytes.
template <typename V>
constexpr int kWideRows = sizeof(Wide) / sizeof(V);

// As many numbers as one word holds. load() and store() are those of the block's shared memory.
template <typename V>
struct alignas(sizeof(Wide)) Chunk {
  static constexpr int kCount = kWideRows<V>;
  V x[kCount];

  TORCHDET_DEVICE static Chunk load(const V* from) { return load_shared<Chunk>(from); }
  TORCHDET_DEVICE void store(V* to) const { store_shared(to, *this); }
  TORCHDET_DEVICE static Chunk load_elsewhere(const V* from) {
    return *reinterpret_cast<const Chunk*>(from);
  }
  TORCHDET_DEVICE void store_elsewhere(V* to) const { *reinterpret_cast<Chunk*>(to) = *this; }
};

// R of the text above is kRows_.
template <typename V, int N, int kRows_>
struct WarpMatrix {
  using Number = V;
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  using T = ScalarOf<V>;
  using F = Format<T>;
  static constexpr int kOrder = N;
  static constexpr int kRows = kRows_;      // of M, in a lane
  static constexpr int kLanes = N / kRows;  // of a matrix
  static constexpr int kPerWarp = kWarpSize / kLanes;
  using LaneWord = Word<kRows* static_cast<int>(sizeof(V))>;
  static_assert(N % 4 == 0 && N % kRows == 0 && kLanes <= kWarpSize);
  // F of the text above.
  static constexpr int kFar = (F::kMaxExponent + 1) / 4;

  // Pivot rows pass through shared memory: two lines for each matrix, used in turn. Lines of
  // neighbouring matrices are an odd number of words apart, so that they lie in different banks,
  // and have a word more than a row.
  static constexpr int kLine = (N / kWideRows<V> + 1 | 1) * kWideRows<V>;
  static constexpr int kOtherLine = kPerWarp * kLine;  // how far apart the two lines are
  static constexpr size_t kLineBytes = 2 * kOtherLine * sizeof(V);  // of a warp

  const int n;
  const int group;      // which matrix of the warp
  const int first_row;  // of M in this lane
  V* const line;
  // Rows first_row + r of M; columns from the current step on, then what steps have put there.
  V m[kRows][N];

  // lines: kLineBytes of shared memory. Where lanes are left over they go with the last matrix,
  // without a row of it.
  TORCHDET_DEVICE WarpMatrix(int order, V* lines)
      : n(order),
        group(group_of(thread_index())),
        first_row((thread_index() % kWarpSize - group * kLanes) * kRows),
        line(lines + group * kLine) {}

  TORCHDET_DEVICE static int group_of(int thread) {
    return minimum(thread % kWarpSize / kLanes, kPerWarp - 1);
  }
  // What is known of the equilibration of the matrix: the sum of its exponents, or one of these. It
  // lies behind a line, since a register is too much for what few matrices need.
  static constexpr int kNotScaled = std::numeric_limits<int>::min(), kNotFinite = kNotScaled + 1;
  TORCHDET_DEVICE int& state() const { return *reinterpret_cast<int*>(line + N); }
  TORCHDET_DEVICE bool is_scaled() const { return state() != kNotScaled; }
  TORCHDET_DEVICE Equilibration<V> equilibration() const {
    const int e = state();
    return {I(e == kNotScaled || e == kNotFinite ? 0 : e),
            e == kNotFinite ? std::numeric_limits<T>::quiet_NaN() : T(-0.0)};
  }

  TORCHDET_DEVICE int row_of(int r) const { return first_row + r; }
  // Whether this is the first lane of the matrix; without a register for the lane's number.
  TORCHDET_DEVICE bool is_first() const { return computed_anew(first_row) == 0; }
  TORCHDET_DEVICE bool has_rows() const { return kWarpSize % kLanes == 0 || first_row < N; }

  // combine() over the lanes of the matrix, the same in each; combine(x, x) is x. With 2^k q lanes,
  // q odd, first over groups of 2^k. Then the groups stand in a circle, and each step doubles how
  // many of them, from its own on, a lane knows of. Steps repeat where they can: each has a
  // register. What comes to lanes that are left over is not used.
  template <typename X, typename Combine>
  TORCHDET_DEVICE X reduce(X x, Combine combine) const {
    constexpr int kGroup = kLanes & -kLanes, kGroups = kLanes / kGroup;
    TORCHDET_UNROLL
    for (int mask = kGroup / 2; mask > 0; mask /= 2) {
      x = combine(x, shuffle_xor(x, mask));
    }
    int known = 1;
    TORCHDET_UNROLL
    for (int turn = 0; turn < 5; ++turn) {
      if (known < kGroups) {
        const int step = minimum(known, kGroups - known);
        const int lane = (first_row / kRows + step * kGroup) % kLanes;
        x = combine(x, shuffle(x, group * kLanes + lane));
        known += step;
      }
    }
    return x;
  }
  template <typename X>
  TORCHDET_DEVICE X reduce_maximum(X x) const {
    return reduce(x, [](X a, X b) { return maximum(a, b); });
  }

  // All loads are on their way before the first is waited for: nothing stands between them.
  TORCHDET_DEVICE void read(const BatchView& view, int64_t b) {
    const int n = computed_anew(this->n);
    const V* from = start(view, b);
    const bool wide = view.column_stride == 1 && n % kRows == 0 && view.row_stride % kRows == 0 &&
                      reinterpret_cast<uintptr_t>(from) % sizeof(LaneWord) == 0;
    if (wide && n == N && view.row_stride == N) {
      read_words([&](int j) { return *reinterpret_cast<const LaneWord*>(from + j * N); });
    } else if (wide) {
      const int length = row_of(0) < n ? n : 0;
      read_words([&](int j) {
        LaneWord word = {};
        if (j < length) {
          word = *reinterpret_cast<const LaneWord*>(from);
        }
        from += view.row_stride;
        return word;
      });
    } else {
      TORCHDET_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const V* at = from + r * view.column_stride;
        const int length = row_of(r) < n ? n : 0;
        TORCHDET_UNROLL
        for (int j = 0; j < N; ++j) {
          m[r][j] = zero<V>();
          if (j < length) {
            m[r][j] = *at;
          }
          at += view.row_stride;
        }
      }
    }
  }

  // The size of its largest entry.
  TORCHDET_DEVICE R largest() const {
    R size = 0;
    TORCHDET_UNROLL
    for (int j = 0; j < N; ++j) {
      TORCHDET_UNROLL
      for (int r = 0; r < kRows; ++r) {
        size = maximum(size, component_size(m[r][j]));
      }
    }
    return reduce_maximum(size);
  }

  // Condition (1) of the text above.
  TORCHDET_DEVICE bool is_balanced() const {
    R sum[kRows] = {}, most = 0, least = std::numeric_limits<T>::max();
    TORCHDET_UNROLL
    for (int j = 0; j < N; ++j) {
      TORCHDET_UNROLL
      for (int r = 0; r < kRows; ++r) {
        sum[r] = sum[r] + pivot_size(m[r][j]);
      }
    }
    TORCHDET_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const R size = computed_anew(sum[r]);  // in all lanes, before it is looked at in some
      const bool is_large = !(size <= exact_pow2<R>(kFar));
      most = is_large ? std::numeric_limits<T>::infinity() : maximum(most, size);
      least = row_of(r) < n ? minimum(least, size) : least;
    }
    most = reduce_maximum(most);
    least = reduce(least, [](R x, R y) { return minimum(x, y); });
    return most <= exact_pow2<R>(kFar) && least >= most * exact_pow2<R>(-kBalance<0>);
  }

  // Equilibration, in two parts so that registers hold the matrix or what finds the exponents. This
  // one writes -r and -c to shared memory for the matrices that ask for it, 0 for others, and the
  // state.
  TORCHDET_DEVICE void measure(const BatchView& view, int64_t b, bool asks, int* row,
                               int* column) const {
    const auto moved = [&](int e) { return e < kZeroExponentBound || !asks ? 0 : -e; };
    const V* from = start(view, b);
    int total = 0, most = kZeroExponent, of_column[kRows];
    TORCHDET_UNROLL
    for (int r = 0; r < kRows; ++r) {
      of_column[r] = kZeroExponent;
    }
    sync_warp();
    TORCHDET_ROLL
    for (int j = 0; j < n; ++j) {
      int own[kRows], largest = kZeroExponent;
      TORCHDET_UNROLL
      for (int r = 0; r < kRows; ++r) {
        own[r] = kZeroExponent;
        if (row_of(r) < n) {
          own[r] = static_cast<int>(entry_exponent(from[r * view.column_stride]));
        }
        largest = maximum(largest, own[r]);
      }
      largest = reduce_maximum(largest);
      most = maximum(most, largest);
      const int e = moved(largest);
      if (is_first()) {
        row[j] = e;
      }
      total -= e;
      TORCHDET_UNROLL
      for (int r = 0; r < kRows; ++r) {
        of_column[r] = maximum(of_column[r], own[r] + e);
      }
      from += view.row_stride;
    }
    const int first = computed_anew(first_row);
    TORCHDET_UNROLL
    for (int r = 0; r < kRows; ++r) {
      if (first + r < n) {
        column[first + r] = moved(of_column[r]);
      }
    }
    sync_warp();
    if (is_first()) {
      TORCHDET_ROLL
      for (int i = first; i < n; ++i) {
        total -= column[i];
      }
      state() = !asks ? kNotScaled : most <= F::kMaxExponent ? total : kNotFinite;
    }
    sync_warp();
  }
  // M <- M of 2^-r A 2^-c. A matrix that is not finite becomes 0, so that no pivot is NaN. Two
  // factors carry what one power of two cannot: no number that the scaling makes larger is made
  // larger by more.
  TORCHDET_DEVICE void scale(const int* row, const int* column) {
    const bool is_finite = state() != kNotFinite;
    const int first = computed_anew(first_row);
    int of_column[kRows];
    TORCHDET_UNROLL
    for (int r = 0; r < kRows; ++r) {
      of_column[r] = first + r < n ? column[first + r] : 0;
    }
    // Four numbers of a row in a turn, which leave it on one side and come back on the other: a
    // loop cannot index registers.
    constexpr int kEach = 4;
    TORCHDET_ROLL
    for (int j = 0; j < N; j += kEach) {
      TORCHDET_UNROLL
      for (int r = 0; r < kRows; ++r) {
        V scaled[kEach];
        TORCHDET_UNROLL
        for (int t = 0; t < kEach; ++t) {
          constexpr int kReach = 2 * F::kMaxExponent - 2;
          const int of_row = j + t < n ? row[j + t] : 0;
          const int e = maximum(minimum(of_row + of_column[r], kReach), -kReach);
          const V x = m[r][t] * exact_pow2<R>(I(e >> 1)) * exact_pow2<R>(I(e - (e >> 1)));
          scaled[t] = is_finite ? x : zero<V>();
        }
        TORCHDET_UNROLL
        for (int c = 0; c < N - kEach; ++c) {
          m[r][c] = m[r][c + kEach];
        }
        TORCHDET_UNROLL
        for (int t = 0; t < kEach; ++t) {
          m[r][N - kEach + t] = scaled[t];
        }
      }
    }
    sync_warp();
  }

 private:
  // The lane's first number in row 0 of A. Lanes without a row point to that of the first.
  TORCHDET_DEVICE const V* start(const BatchView& view, int64_t b) const {
    return static_cast<const V*>(view.data) + view.offset(b) +
           computed_anew(has_rows() ? first_row : 0) * view.column_stride;
  }

  // A word holds a number of each row of M, but a pivot row is published in words along the row.
  // Registers cannot be both, and a copy here is one for all steps. The factor of 1 makes a copy of
  // what would else be the same register.
  template <typename Load>
  TORCHDET_DEVICE void read_words(Load load) {
    LaneWord word[N];
    TORCHDET_UNROLL
    for (int j = 0; j < N; ++j) {
      word[j] = load(j);
    }
    const R factor = computed_anew(R(1));
    TORCHDET_UNROLL
    for (int j = 0; j < N; ++j) {
      V number[kRows];
      std::memcpy(static_cast<void*>(number), &word[j], sizeof(word[j]));
      TORCHDET_UNROLL
      for (int r = 0; r < kRows; ++r) {
        m[r][j] = kRows == 1 ? number[r] : number[r] * factor;
      }
    }
  }
};

// Reads the matrix of number index() and lets work() eliminate it, which returns whether no pivot
// was below 2^-kFar: as it is where that can be trusted, else equilibrated, with -r and -c in row
// and column, in shared memory. All matrices of a warp stay together; one that is worked on again
// because of another one comes to the same bits.
template <typename Matrix, typename Index, typename Work>
TORCHDET_DEVICE void eliminate_in_range(Matrix& matrix, const BatchView& view, Index index,
                                        int* row, int* column, Work work) {
  if (matrix.is_first()) {
    matrix.state() = Matrix::kNotScaled;
  }
  while (true) {
    matrix.read(view, index());
    sync_warp();
    bool asks = false;
    if (any_in_warp(matrix.is_scaled())) {
      matrix.scale(row, column);
    } else {
      asks = !matrix.is_balanced();
    }
    if (!any_in_warp(asks)) {
      asks = !work() && !matrix.is_scaled();
      if (!any_in_warp(asks)) {
        return;
      }
    }
    matrix.measure(view, index(), asks || matrix.is_scaled(), row, column);
  }
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
