// A matrix in the registers of a few neighbouring lanes of a warp: the class "warp".
//
// Each lane holds R adjacent columns of A, R numbers being one 16-byte word, so the rows of A are
// read in wide words and whole lines. These columns are the rows of M = A^T, which is what is
// factored: det M = det A and C(M) = C(A)^T. Each lane thus owns whole rows of M, an elimination
// step is arithmetic within the lane, and what has to travel is one pivot row, once for R rows that
// use it.
//
// Orders up to N share the code for N: rows and columns of M beyond n are zero and no step is
// spent on them. Registers cannot be indexed, so every loop over m has constant bounds.
#pragma once

#include "../results.h"

#include "../../math/equilibrate.h"
#include "../../math/scaled.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// The equilibration of a matrix, in shared memory: registers are for the matrix.
template <int N>
struct WarpScaling {
  int row[N], column[N];  // -r and -c
};

// R of the text above.
template <typename V>
constexpr int kWideRows = sizeof(Wide) / sizeof(V);

template <typename V, int N, int R_ = kWideRows<V>>
struct WarpMatrix {
  using Number = V;
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  using T = ScalarOf<V>;
  static constexpr int kOrder = N;
  static constexpr int kRows = R_;          // of M, in a lane
  static constexpr int kLanes = N / kRows;  // of a matrix
  using LaneWord = Word<kRows* static_cast<int>(sizeof(V))>;
  static constexpr int kPerWarp = kWarpSize / kLanes;
  static_assert(kLanes <= kWarpSize && kWarpSize % kLanes == 0);

  const int n;
  const int lane;  // within those of the matrix
  WarpScaling<N>& scaling;
  bool is_scaled = false;  // whether there is anything in `scaling`; the same in the whole warp
  // Rows lane * kRows + r of M; columns from the current step on, then what steps have put there.
  V m[kRows][N];

  TORCHDET_DEVICE WarpMatrix(int order, WarpScaling<N>& memory)
      : n(order), lane(thread_index() % kLanes), scaling(memory) {}

  TORCHDET_DEVICE int row_of(int r) const { return lane * kRows + r; }

  // combine() over the lanes of the matrix, the same in each.
  template <typename X, typename Combine>
  TORCHDET_DEVICE static X reduce(X x, Combine combine) {
    for (int mask = kLanes / 2; mask > 0; mask /= 2) {
      x = combine(x, shuffle_xor(x, mask));
    }
    return x;
  }
  template <typename X>
  TORCHDET_DEVICE static X reduce_maximum(X x) {
    return reduce(x, [](X a, X b) { return maximum(a, b); });
  }

  // All loads are on their way before the first is waited for: nothing stands between them.
  TORCHDET_DEVICE void read(const BatchView& view, int64_t b) {
    const V* from =
        static_cast<const V*>(view.data) + view.offset(b) + row_of(0) * view.column_stride;
    const bool wide = view.column_stride == 1 && n % kRows == 0 && view.row_stride % kRows == 0 &&
                      reinterpret_cast<uintptr_t>(from) % sizeof(LaneWord) == 0;
    if (wide) {
      LaneWord word[N];
      TORCHDET_UNROLL
      for (int j = 0; j < N; ++j) {
        word[j] = {};
        if (j < n && row_of(0) < n) {
          word[j] = *reinterpret_cast<const LaneWord*>(from);
        }
        from += view.row_stride;
      }
      TORCHDET_UNROLL
      for (int j = 0; j < N; ++j) {
        V number[kRows];
        std::memcpy(static_cast<void*>(number), &word[j], sizeof(word[j]));
        TORCHDET_UNROLL
        for (int r = 0; r < kRows; ++r) {
          m[r][j] = number[r];
        }
      }
    } else {
      TORCHDET_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const V* at = from + r * view.column_stride;
        TORCHDET_UNROLL
        for (int j = 0; j < N; ++j) {
          m[r][j] = zero<V>();
          if (j < n && row_of(r) < n) {
            m[r][j] = *at;
          }
          at += view.row_stride;
        }
      }
    }
  }

  // The rule of math/equilibrate.h: a matrix whose rows and columns all have an entry near the
  // largest one stays as it is.
  TORCHDET_DEVICE Equilibration<V> equilibrate() {
    // All in floating point: bit patterns of the entries would be kept in registers for later.
    R largest = 0, check = 0;  // check turns NaN where an entry is not finite
    R column_size[kRows] = {};
    TORCHDET_UNROLL
    for (int j = 0; j < N; ++j) {
      TORCHDET_UNROLL
      for (int r = 0; r < kRows; ++r) {
        column_size[r] = maximum(column_size[r], component_size(m[r][j]));
        check = add_nothing(m[r][j], check);
      }
    }
    TORCHDET_UNROLL
    for (int r = 0; r < kRows; ++r) {
      largest = maximum(largest, column_size[r]);
    }
    largest = reduce_maximum(largest);
    const R bound = maximum(largest * exact_pow2<R>(-kBalance<0>), exact_pow2<R>(-kCentral));
    unsigned large_rows = 0;  // bit j: row j of A has a large entry
    TORCHDET_UNROLL
    for (int j = 0; j < N; ++j) {
      R row_size = 0;
      TORCHDET_UNROLL
      for (int r = 0; r < kRows; ++r) {
        row_size = maximum(row_size, component_size(m[r][j]));
      }
      large_rows |= row_size >= bound ? 1u << j : 0;
    }
    constexpr int kSmallColumn = 1, kNotFinite = 2;
    int flags = check == 0 ? 0 : kNotFinite;
    TORCHDET_UNROLL
    for (int r = 0; r < kRows; ++r) {
      flags |= row_of(r) < n && !(column_size[r] >= bound) ? kSmallColumn : 0;
    }
    large_rows = reduce(large_rows, [](unsigned a, unsigned b) { return a | b; });
    flags = reduce(flags, [](int a, int b) { return a | b; });
    const bool unbalanced = largest > exact_pow2<R>(kCentral) || flags != 0 ||
                            large_rows != (n == kWarpSize ? ~0u : (1u << n) - 1);
    // All matrices of the warp come along, so that the lanes stay together.
    is_scaled = any_in_warp(unbalanced);
    const int total = is_scaled ? scale(unbalanced) : 0;
    const bool finite = (flags & kNotFinite) == 0;
    return {total, finite ? T(-0.0) : std::numeric_limits<T>::quiet_NaN()};
  }

 private:
  TORCHDET_DEVICE int scale(bool unbalanced) {
    const auto moved = [](int e) { return e < kZeroExponentBound ? 0 : -e; };
    int total = 0;
    int exponent[kRows];
    TORCHDET_UNROLL
    for (int r = 0; r < kRows; ++r) {
      exponent[r] = kZeroExponent;
    }
    TORCHDET_UNROLL
    for (int j = 0; j < N; ++j) {
      int own[kRows], largest = kZeroExponent;
      TORCHDET_UNROLL
      for (int r = 0; r < kRows; ++r) {
        own[r] = static_cast<int>(entry_exponent(m[r][j]));
        largest = maximum(largest, own[r]);
      }
      const int e = moved(reduce_maximum(largest));
      if (lane == 0) {
        scaling.row[j] = unbalanced ? e : 0;
      }
      total -= e;
      TORCHDET_UNROLL
      for (int r = 0; r < kRows; ++r) {
        exponent[r] = maximum(exponent[r], own[r] + e);
      }
    }
    int column_total = 0;
    TORCHDET_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const int e = moved(exponent[r]);
      column_total -= e;
      scaling.column[row_of(r)] = unbalanced ? e : 0;
    }
    sync_warp();
    TORCHDET_UNROLL
    for (int j = 0; j < N; ++j) {
      TORCHDET_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const int e = unbalanced ? scaling.row[j] + scaling.column[row_of(r)] : 0;
        m[r][j] = scale_pow2(m[r][j], I(e));
      }
    }
    sync_warp();
    total += reduce(column_total, [](int a, int b) { return a + b; });
    return unbalanced ? total : 0;
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
