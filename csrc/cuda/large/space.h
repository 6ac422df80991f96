// The class "large": matrices that do not fit in shared memory, in global memory. What its kernels
// share: how a matrix is cut into strips, how it is read, and what is kept of it between launches.
//
// Torch's LU takes columns. B row after row is B^T column after column, so B^T is factored, where
// it lies. Y = conj(B^-T), row after row, is (B^T)^-H column after column, so Y is what torch's
// solve makes of the identity, where it lies, with the adjoint of the same factors. Passes over the
// n^2 numbers of a matrix beside LU and solve, each one reading or one writing; "before": with
// factors of B, columns that a thread reads alone, and scaling whether or not it changes anything.
//     operator                now                                             before
//     determinant             2     read A, write B                           10
//     gradient                5     + write I, read Y, write the result       18
//       with factors kept     3     these three, no LU (kept.h)               18
//     Hessian-vector product  16    + read Z; read Z and Y, write Z';         4 n, by LDU
//                                   two products; read Y and Y Z'^H Y
// A matrix that has to be scaled takes 3 more, and 1 of Z.
//
// B^-1 is not what is computed, but X = B'^-T, B' having another last pivot than B ((1) and (2) of
// inverse_hvp.h). Its entry (l, p) lies in the last row.
#pragma once

#include "../inverse_hvp.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// Rows of a strip, of which a block takes one, and words of 16 bytes of a strip of columns.
constexpr int kStripRows = 32, kStripWords = 8;
constexpr int kStripThreads = 128, kStripWarps = kStripThreads / kWarpSize;
// Rows that a thread reads at once, so that eight words are on their way.
constexpr int kRowsAhead = 8;

// Leading bits of sizes: the largest entry of the strip, the least of the largest ones of its rows
// and of its columns, and the largest entry of the direction Z.
struct StripSizes {
  int32_t largest, least_of_rows, least_of_columns, direction;
};

// What a warp finds in its part of a strip: whether the result is finite, and for Hessian-vector
// products sum X Z' and the leading bits of the largest numbers of X_E, c and r.
template <typename V>
struct StripTerms {
  V trace;
  int32_t is_finite, inverse, column, row;
};

// One matrix of the batch.
template <typename V>
class LargeMatrix {
 public:
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  static constexpr int kCount = Chunk<V>::kCount;

  TORCHDET_DEVICE LargeMatrix(const Problem& p, int64_t index) : b(index), n(int(p.n)) {
    Arena arena(static_cast<unsigned char*>(p.large.workspace) + b * p.large.workspace_stride);
    take(arena);
    factors = own(p.large.factors);
    inverse = own(p.large.inverse);
    out = own(p.out);
  }

  TORCHDET_ANYWHERE static int count_strips(int n) { return (n + kStripRows - 1) / kStripRows; }
  TORCHDET_ANYWHERE static int count_column_strips(int n) {
    return (words_of<V>(n) + kStripWords - 1) / kStripWords;
  }
  static size_t workspace_bytes(int64_t order) {
    LargeMatrix counted(static_cast<int>(order));
    Arena counter(nullptr);
    counted.take(counter);
    return counter.bytes;
  }

  // Whether rows of the matrices in memory of our own are whole words.
  TORCHDET_DEVICE bool has_whole_words() const { return n % kCount == 0; }

  // The rule of math/equilibrate.h, from strips; the same in all threads of a warp. A column has an
  // entry as large as wanted if it has one in any strip, so the best strip decides. Where each
  // strip lacks some column, the matrix counts as unbalanced: scaling is exact, needed or not.
  TORCHDET_DEVICE bool is_balanced() const {
    int32_t largest = 0, least_of_rows = std::numeric_limits<int32_t>::max(), least_of_columns = 0;
    for (int s = thread_index() % kWarpSize; s < count_strips(n); s += kWarpSize) {
      largest = maximum(largest, sizes[s].largest);
      least_of_rows = minimum(least_of_rows, sizes[s].least_of_rows);
      least_of_columns = maximum(least_of_columns, sizes[s].least_of_columns);
    }
    largest = reduce_maximum_in_warp(largest);
    least_of_rows = -reduce_maximum_in_warp(-least_of_rows);
    least_of_columns = reduce_maximum_in_warp(least_of_columns);
    return minimum(least_of_rows, least_of_columns) >= least_balanced<R>(largest) &&
           largest <= leading_bits_of_pow2<R>(kCentral);
  }
  TORCHDET_DEVICE int32_t largest() const {
    int32_t found = 0;
    for (int s = thread_index() % kWarpSize; s < count_strips(n); s += kWarpSize) {
      found = maximum(found, sizes[s].largest);
    }
    return reduce_maximum_in_warp(found);
  }

  // The exponent that brings entry (i, j) of A, of a direction or of a result to its place.
  TORCHDET_DEVICE I shift(int i, int j) const {
    return facts->equilibration.is_identity ? I(0) : vectors.row[i] + vectors.column[j];
  }

  const int64_t b = 0;
  const int n;
  V *factors = nullptr, *inverse = nullptr, *out = nullptr;
  TeamVectors<V> vectors;
  InverseFacts<V>* facts;
  StripSizes* sizes;
  StripTerms<V>* terms;  // kStripWarps to a strip
  I* direction;          // exponents of Z, scaled as A is, in strips of columns

 private:
  explicit LargeMatrix(int order) : n(order) {}

  // Its part of the memory of all, which an operator may be without.
  TORCHDET_DEVICE V* own(void* all) const {
    return all == nullptr ? nullptr : static_cast<V*>(all) + b * n * n;
  }

  TORCHDET_ANYWHERE void take(Arena& arena) {
    vectors = TeamVectors<V>(arena, n, 0);
    facts = arena.take<InverseFacts<V>>(1);
    sizes = arena.take<StripSizes>(count_strips(n));
    terms = arena.take<StripTerms<V>>(count_strips(n) * kStripWarps);
    direction = arena.take<I>(count_column_strips(n));
  }
};

// A matrix of the caller, in words: of rows where these are contiguous, of columns where those are,
// else number by number.
template <typename V>
class LargeReader {
 public:
  static constexpr int kCount = Chunk<V>::kCount;
  TORCHDET_DEVICE LargeReader(const BatchView& view, int64_t b, int order)
      : from_(static_cast<const V*>(view.data) + view.offset(b)),
        row_(view.row_stride),
        column_(view.column_stride),
        n_(order) {
    const bool is_aligned =
        n_ % kCount == 0 && reinterpret_cast<uintptr_t>(from_) % sizeof(Wide) == 0;
    by_rows_ = is_aligned && column_ == 1 && row_ % kCount == 0;
    by_columns_ = is_aligned && row_ == 1 && column_ % kCount == 0;
  }

  TORCHDET_DEVICE V operator()(int i, int j) const { return from_[i * row_ + j * column_]; }

  // x[r] <- word w of row i + r; zeros beyond row or column n.
  TORCHDET_DEVICE void load(int i, int w, Chunk<V> (&x)[kRowsAhead]) const {
    if (by_columns_) {
      TORCHDET_UNROLL
      for (int g = 0; g < kRowsAhead; g += kCount) {
        TORCHDET_UNROLL
        for (int e = 0; e < kCount; ++e) {
          Chunk<V> y = nothing();
          if (i + g < n_) {
            y = Chunk<V>::load_elsewhere(from_ + (w * kCount + e) * column_ + i + g);
          }
          TORCHDET_UNROLL
          for (int t = 0; t < kCount; ++t) {
            x[g + t].x[e] = y.x[t];
          }
        }
      }
      return;
    }
    TORCHDET_UNROLL
    for (int r = 0; r < kRowsAhead; ++r) {
      x[r] = nothing();
      if (by_rows_) {
        if (i + r < n_) {
          x[r] = Chunk<V>::load_elsewhere(from_ + (i + r) * row_ + w * kCount);
        }
      } else {
        TORCHDET_UNROLL
        for (int e = 0; e < kCount; ++e) {
          if (i + r < n_ && w * kCount + e < n_) {
            x[r].x[e] = (*this)(i + r, w * kCount + e);
          }
        }
      }
    }
  }

 private:
  TORCHDET_DEVICE static Chunk<V> nothing() {
    Chunk<V> x;
    TORCHDET_UNROLL
    for (int e = 0; e < kCount; ++e) {
      x.x[e] = zero<V>();
    }
    return x;
  }

  const V* const from_;
  const int64_t row_, column_;
  const int n_;
  bool by_rows_, by_columns_;
};

// Kernels of the class "large". Blocks are as many as count_blocks() says, in any number: they find
// their matrices by block_index().
template <typename V>
struct LargeKernel {
  static constexpr Memory kMemory = Memory::kGlobal;
  static size_t block_bytes(int64_t n) { return LargeMatrix<V>::workspace_bytes(n); }
};

// A block for each strip of kStripRows rows. Threads own words of all rows of the strip.
template <typename V>
struct StripKernel : LargeKernel<V> {
  static constexpr int kThreads = kStripThreads, kBlocksPerSm = sizeof(V) == 16 ? 3 : 4;
  static constexpr size_t kSharedBytes = 0;
  static int64_t count_blocks(const Problem& p) {
    return p.batch * LargeMatrix<V>::count_strips(static_cast<int>(p.n));
  }
  // The block's matrix and strip.
  TORCHDET_DEVICE static int64_t matrix_index(const Problem& p) {
    return block_index() / LargeMatrix<V>::count_strips(static_cast<int>(p.n));
  }
  TORCHDET_DEVICE static int strip_index(const Problem& p) {
    return static_cast<int>(block_index() % LargeMatrix<V>::count_strips(static_cast<int>(p.n)));
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
