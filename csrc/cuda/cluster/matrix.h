// A matrix in the shared memory of a cluster: how it is read, looked at, and scaled.
#pragma once

#include "layout.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// One block's share of the matrix. Rows never move: row_index lists them in pivoted order, the same
// in every block.
template <typename V, int kClusterSize_>
class ClusterMatrix {
 public:
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  using T = ScalarOf<V>;
  using Layout = ClusterLayout<V, kClusterSize_>;
  static constexpr int kClusterSize = kClusterSize_;
  static constexpr int P = kClusterPanel<V>, kCount = Chunk<V>::kCount;
  static constexpr int kLargestOrder = Layout::largest_order();
  // A thread for each row of a panel, and as many warps on each of the four schedulers.
  static constexpr int kRowWarps = quotient_up(kLargestOrder, kWarpSize);
  static constexpr int kWarps = quotient_up(kRowWarps, 4) * 4;
  static constexpr int kThreads = kWarps * kWarpSize;

  TORCHDET_DEVICE explicit ClusterMatrix(int n)
      : layout_(n, kRowWarps),
        n_(n),
        stride_(layout_.stride),
        rank_(cluster_rank()),
        columns_(Layout::columns_of_block(n, rank_)),
        words_(Layout::words_of_block(n, rank_)),
        a_(shared_memory<V>()),
        row_index_(at<int>(layout_.row_index)),
        team_(at<unsigned char>(layout_.slots)) {}

  // Reads matrix b, and scales it where it is not balanced (math/equilibrate.h). `total` is this
  // block's share of the exponent.
  TORCHDET_DEVICE Equilibration<V> read(const BatchView& view, int64_t b) {
    const V* from = static_cast<const V*>(view.data) + view.offset(b);
    const bool wide = view.column_stride == 1 && view.row_stride % kCount == 0 &&
                      n_ % kCount == 0 && reinterpret_cast<uintptr_t>(from) % sizeof(Wide) == 0;
    if (wide) {
      read_words(from, view.row_stride);
    } else {
      read_numbers(from, view);
    }
    if (thread_index() < n_) {
      row_index_[thread_index()] = thread_index();
    }
    sync_block();
    if (is_balanced()) {
      return {I(0), R(T(-0.0))};
    }
    return equilibrate();
  }

 protected:
  template <typename X>
  TORCHDET_DEVICE static X* at(size_t offset) {
    return reinterpret_cast<X*>(shared_memory<unsigned char>() + offset);
  }
  // The multipliers of panel k, a row of P of them for each row of the matrix.
  TORCHDET_DEVICE V* multipliers(int k) const {
    return at<V>(layout_.multipliers[0] +
                 k % 2 * (layout_.multipliers[1] - layout_.multipliers[0]));
  }
  // The column of the matrix that is column j of this block.
  TORCHDET_DEVICE int column_of(int j) const { return (j / P * kClusterSize + rank_) * P + j % P; }

  const Layout layout_;
  const int n_, stride_, rank_, columns_, words_;
  V* const a_;
  int* const row_index_;

 private:
  // Warps take rows; several rows are on their way before the first is waited for.
  TORCHDET_DEVICE void read_words(const V* from, int64_t row_stride) {
    constexpr int kAhead = 4;
    const int warp = thread_index() / kWarpSize;
    for (int w = thread_index() % kWarpSize; w < words_; w += kWarpSize) {
      const V* const column = from + column_of(w * kCount);
      TORCHDET_ROLL
      for (int first = warp; first < n_; first += kWarps * kAhead) {
        Chunk<V> chunk[kAhead];
        TORCHDET_UNROLL
        for (int t = 0; t < kAhead; ++t) {
          const int i = first + t * kWarps;
          if (i < n_) {
            chunk[t] = Chunk<V>::load_elsewhere(column + i * row_stride);
          }
        }
        TORCHDET_UNROLL
        for (int t = 0; t < kAhead; ++t) {
          const int i = first + t * kWarps;
          if (i < n_) {
            chunk[t].store(a_ + i * stride_ + w * kCount);
          }
        }
      }
    }
  }

  // Neighbouring threads read neighbouring numbers, whichever way the matrix lies. The rest of the
  // last word of a row takes part in the arithmetic, to no effect.
  TORCHDET_DEVICE void read_numbers(const V* from, const BatchView& view) {
    const int warp = thread_index() / kWarpSize, lane = thread_index() % kWarpSize;
    const bool by_columns = view.row_stride == 1;
    const int all = words_ * kCount;
    const int outer = by_columns ? all : n_, inner = by_columns ? n_ : all;
    for (int x = warp; x < outer; x += kWarps) {
      for (int y = lane; y < inner; y += kWarpSize) {
        const int i = by_columns ? y : x, j = by_columns ? x : y;
        V number = zero<V>();
        if (j < columns_) {
          number = from[i * view.row_stride + column_of(j) * view.column_stride];
        }
        a_[i * stride_ + j] = number;
      }
    }
  }

  // body(j) for the columns of this block.
  template <typename Body>
  TORCHDET_DEVICE void for_columns(Body body) const {
    for (int j = thread_index(); j < columns_; j += kThreads) {
      body(j);
    }
  }
  // The largest of what the blocks of the cluster have in place i of their `sizes`.
  TORCHDET_DEVICE int32_t largest_of_blocks(int i) const {
    int32_t largest = std::numeric_limits<int32_t>::min();
    TORCHDET_UNROLL
    for (int r = 0; r < kClusterSize; ++r) {
      largest = maximum(largest, *map_shared(at<int32_t>(layout_.sizes) + i, r));
    }
    return largest;
  }
  TORCHDET_DEVICE int32_t maximum_of_threads(int32_t x) {
    return team_.reduce(x, [](int32_t a, int32_t b) { return maximum(a, b); });
  }
  TORCHDET_DEVICE int32_t minimum_of_threads(int32_t x) {
    return team_.reduce(x, [](int32_t a, int32_t b) { return minimum(a, b); });
  }

  // Whether the matrix may stay as it is; the same in all blocks. A row's size is the largest of
  // what the blocks see of it, a column is seen by one block: one exchange of n + 1 numbers.
  TORCHDET_DEVICE bool is_balanced() {
    const int i = thread_index();
    int32_t size = 0, least = std::numeric_limits<int32_t>::max();
    if (i < n_) {
      for (int w = 0; w < words_; ++w) {
        const Chunk<V> chunk = Chunk<V>::load(a_ + i * stride_ + w * kCount);
        TORCHDET_UNROLL
        for (int e = 0; e < kCount; ++e) {
          size = maximum(size, leading_bits(chunk.x[e]));
        }
      }
      at<int32_t>(layout_.sizes)[i] = size;
    }
    for_columns([&](int j) {
      int32_t largest = 0;
      for (int r = 0; r < n_; ++r) {
        largest = maximum(largest, leading_bits(a_[r * stride_ + j]));
      }
      least = minimum(least, largest);
    });
    least = minimum_of_threads(least);
    if (i == 0) {
      *at<int32_t>(layout_.least_column) = least;
    }
    sync_cluster();
    int32_t largest = 0;
    if (i < n_) {
      largest = largest_of_blocks(i);
      least = minimum(least, largest);
    }
    if (i < kClusterSize) {
      least = minimum(least, *map_shared(at<int32_t>(layout_.least_column), i));
    }
    largest = maximum_of_threads(largest);
    least = minimum_of_threads(least);
    return least >= least_balanced<R>(largest) && largest <= leading_bits_of_pow2<R>(kCentral);
  }

  // A <- 2^-r A 2^-c as in math/equilibrate.h: the exponents r of the rows from all blocks, those
  // of the columns, which depend on r, from the block that owns them.
  TORCHDET_DEVICE Equilibration<V> equilibrate() {
    const auto moved = [](int e) { return e < kZeroExponentBound ? 0 : -e; };
    const int i = thread_index();
    sync_cluster();  // all blocks have read the sizes, which give way to exponents
    if (i < n_) {
      int e = kZeroExponent;
      for (int j = 0; j < columns_; ++j) {
        e = maximum(e, static_cast<int>(entry_exponent(a_[i * stride_ + j])));
      }
      at<int32_t>(layout_.sizes)[i] = e;
    }
    sync_cluster();
    int* const row = at<int>(layout_.multipliers[0]);  // -r; there are no multipliers yet
    int total = 0, largest = kZeroExponent;
    if (i < n_) {
      largest = largest_of_blocks(i);
      row[i] = moved(largest);
      total = rank_ == 0 ? -row[i] : 0;
    }
    sync_block();
    for_columns([&](int j) {
      int e = kZeroExponent;
      for (int r = 0; r < n_; ++r) {
        e = maximum(e, static_cast<int>(entry_exponent(a_[r * stride_ + j])) + row[r]);
      }
      const int column = moved(e);
      total -= column;
      for (int r = 0; r < n_; ++r) {
        V& x = a_[r * stride_ + j];
        x = scale_pow2(x, I(row[r] + column));
      }
    });
    total = team_.reduce(total, [](int x, int y) { return x + y; });
    const bool finite = maximum_of_threads(largest) <= Format<T>::kMaxExponent;
    return {I(total), finite ? T(-0.0) : std::numeric_limits<T>::quiet_NaN()};
  }

  Team<kThreads> team_;
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
