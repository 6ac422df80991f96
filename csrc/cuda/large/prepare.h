// From A to B, before the LU: LargeCopy reads A once, whichever way it lies, writes it row
// after row, and takes sizes of rows and columns on the way. LargeScale has to do with matrices
// that are not balanced alone: then B = 2^-r A 2^-c, in place. LargeIdentity is what is left of
// both where the factors are kept.
#pragma once

#include "space.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// Whether the operator needs B^-T.
TORCHDET_ANYWHERE constexpr bool wants_inverse(Op op) {
  return op != Op::kDet && op != Op::kSlogdet;
}

// Word w of row i of the identity, to where the inverse will be.
template <typename V>
TORCHDET_DEVICE void store_unit(const LargeMatrix<V>& m, int i, int w) {
  Chunk<V> unit;
  TORCHDET_UNROLL
  for (int e = 0; e < Chunk<V>::kCount; ++e) {
    unit.x[e] = w * Chunk<V>::kCount + e == i ? one<V>() : zero<V>();
  }
  store_word(m.inverse + int64_t(i) * m.n, w, unit, m.n, m.has_whole_words());
}

template <typename V>
struct LargeIdentity : StripKernel<V> {
  TORCHDET_DEVICE static void run(const Problem& p) {
    const LargeMatrix<V> m(p, LargeIdentity::matrix_index(p));
    const int begin = LargeIdentity::strip_index(p) * kStripRows;
    for (int w = thread_index(); w < words_of<V>(m.n); w += kStripThreads) {
      TORCHDET_ROLL
      for (int i = begin; i < minimum(begin + kStripRows, m.n); ++i) {
        store_unit(m, i, w);
      }
    }
  }
};

template <typename V>
struct LargeCopy : StripKernel<V> {
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  static constexpr int kCount = Chunk<V>::kCount;
  // Of each warp: sizes of rows, and two numbers more.
  static constexpr int kNumbers = kStripRows + 2;
  static constexpr size_t kSharedBytes = kStripWarps * kNumbers * sizeof(int32_t);

  TORCHDET_DEVICE static void run(const Problem& p) {
    const LargeMatrix<V> m(p, LargeCopy::matrix_index(p));
    const int strip = LargeCopy::strip_index(p), begin = strip * kStripRows;
    const int lane = thread_index() % kWarpSize, warp = thread_index() / kWarpSize;
    int32_t* const own = shared_memory<int32_t>() + warp * kNumbers;
    own[lane] = 0;
    sync_warp();
    const int32_t least_of_columns = copy(p, m, begin, own);
    const int32_t direction = p.op == Op::kDetHvp ? largest_of_direction(p, m, begin) : 0;
    if (lane == 0) {
      own[kStripRows] = least_of_columns;
      own[kStripRows + 1] = direction;
    }
    sync_block();
    if (warp == 0) {
      finish(m, strip);
    }
  }

 private:
  // Copies the strip, and adds the thread's words to the sizes of the rows; the least of the
  // largest entries of the warp's columns.
  TORCHDET_DEVICE static int32_t copy(const Problem& p, const LargeMatrix<V>& m, int begin,
                                      int32_t* row_sizes) {
    const int n = m.n, words = words_of<V>(n);
    const bool is_whole = m.has_whole_words(), needs_identity = wants_inverse(p.op);
    const LargeReader<V> reader(p.A, m.b, n);
    int32_t least = std::numeric_limits<int32_t>::max();
    for (int first = 0; first < words; first += kStripThreads) {
      const int w = first + thread_index();
      const bool has_word = w < words;
      int32_t column[kCount] = {0};
      TORCHDET_ROLL
      for (int r0 = 0; r0 < kStripRows && begin + r0 < n; r0 += kRowsAhead) {
        Chunk<V> x[kRowsAhead];
        if (has_word) {
          reader.load(begin + r0, w, x);
        }
        TORCHDET_UNROLL
        for (int r = 0; r < kRowsAhead; ++r) {
          const int i = begin + r0 + r;
          int32_t size = 0;
          if (has_word && i < n) {
            store_word(m.factors + int64_t(i) * n, w, x[r], n, is_whole);
            TORCHDET_UNROLL
            for (int e = 0; e < kCount; ++e) {
              const int32_t bits = leading_bits(x[r].x[e]);
              column[e] = maximum(column[e], bits);
              size = maximum(size, bits);
            }
            if (needs_identity) {
              store_unit(m, i, w);
            }
          }
          size = reduce_maximum_in_warp(size);
          if (thread_index() % kWarpSize == 0) {
            row_sizes[r0 + r] = maximum(row_sizes[r0 + r], size);
          }
        }
      }
      TORCHDET_UNROLL
      for (int e = 0; e < kCount; ++e) {
        least = w * kCount + e < n ? minimum(least, column[e]) : least;
      }
    }
    return -reduce_maximum_in_warp(-least);
  }

  TORCHDET_DEVICE static int32_t largest_of_direction(const Problem& p, const LargeMatrix<V>& m,
                                                      int begin) {
    const LargeReader<V> reader(p.other, m.b, m.n);
    int32_t largest = 0;
    for (int w = thread_index(); w < words_of<V>(m.n); w += kStripThreads) {
      TORCHDET_ROLL
      for (int r0 = 0; r0 < kStripRows && begin + r0 < m.n; r0 += kRowsAhead) {
        Chunk<V> x[kRowsAhead];
        reader.load(begin + r0, w, x);
        TORCHDET_UNROLL
        for (int t = 0; t < kRowsAhead * kCount; ++t) {
          largest = maximum(largest, leading_bits(x[t / kCount].x[t % kCount]));
        }
      }
    }
    return reduce_maximum_in_warp(largest);
  }

  // What all warps found, by the first: a lane has a row.
  TORCHDET_DEVICE static void finish(const LargeMatrix<V>& m, int strip) {
    const int32_t* const all = shared_memory<int32_t>();
    const int lane = thread_index(), i = strip * kStripRows + lane, n = m.n;
    int32_t size = 0, least_of_columns = std::numeric_limits<int32_t>::max(), direction = 0;
    TORCHDET_UNROLL
    for (int w = 0; w < kStripWarps; ++w) {
      size = maximum(size, all[w * kNumbers + lane]);
      least_of_columns = minimum(least_of_columns, all[w * kNumbers + kStripRows]);
      direction = maximum(direction, all[w * kNumbers + kStripRows + 1]);
    }
    if (i < n) {
      I e = (size >> kLeadingFraction<R>)-Format<ScalarOf<V>>::kMaxExponent;
      if (size < leading_bits_of_pow2<R>(Format<ScalarOf<V>>::kMinExponent)) {
        e = I(kZeroExponent);  // zeros and subnormal numbers, whose leading bits are not enough
        for (int j = 0; j < n; ++j) {
          e = maximum(e, entry_exponent(m.factors[int64_t(i) * n + j]));
        }
      }
      m.vectors.row[i] = e < kZeroExponentBound ? I(0) : -e;
    }
    const int32_t largest = reduce_maximum_in_warp(size);
    const int32_t least_of_rows =
        -reduce_maximum_in_warp(i < n ? -size : -std::numeric_limits<int32_t>::max());
    if (lane == 0) {
      m.sizes[strip] = {largest, least_of_rows, least_of_columns, direction};
    }
  }
};

// A block for each strip of kStripWords words of all rows. The lanes of a warp have four rows of
// them.
template <typename V>
struct LargeScale : LargeKernel<V> {
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  static constexpr int kThreads = 256, kBlocksPerSm = 4, kWarps = kThreads / kWarpSize;
  static constexpr int kCount = Chunk<V>::kCount, kColumns = kStripWords * kCount;
  static constexpr int kRowsAtOnce = kThreads / kStripWords;
  static constexpr size_t kSharedBytes = kWarps * (kColumns + 1) * sizeof(I);

  static int64_t count_blocks(const Problem& p) {
    return p.batch * LargeMatrix<V>::count_column_strips(static_cast<int>(p.n));
  }

  TORCHDET_DEVICE static void run(const Problem& p) {
    const int strips = LargeMatrix<V>::count_column_strips(static_cast<int>(p.n));
    const LargeMatrix<V> m(p, block_index() / strips);
    if (m.is_balanced()) {
      return;
    }
    const int strip = static_cast<int>(block_index() % strips), n = m.n;
    const int own = thread_index() % kStripWords, w = strip * kStripWords + own;
    const int first = thread_index() / kStripWords, warp = thread_index() / kWarpSize;
    const bool is_whole = m.has_whole_words(), has_word = w < words_of<V>(n);
    I* const sizes = shared_memory<I>();
    I column[kCount];
    TORCHDET_UNROLL
    for (int e = 0; e < kCount; ++e) {
      column[e] = I(kZeroExponent);
    }
    for (int i = first; has_word && i < n; i += kRowsAtOnce) {
      const Chunk<V> x = load_word(m.factors + int64_t(i) * n, w, n, is_whole);
      TORCHDET_UNROLL
      for (int e = 0; e < kCount; ++e) {
        column[e] = maximum(column[e], entry_exponent(x.x[e]) + m.vectors.row[i]);
      }
    }
    TORCHDET_UNROLL
    for (int e = 0; e < kCount; ++e) {
      TORCHDET_UNROLL
      for (int mask = kStripWords; mask < kWarpSize; mask *= 2) {
        column[e] = maximum(column[e], shuffle_xor(column[e], mask));
      }
      if (thread_index() % kWarpSize < kStripWords) {
        sizes[warp * kColumns + own * kCount + e] = column[e];
      }
    }
    sync_block();
    TORCHDET_UNROLL
    for (int e = 0; e < kCount; ++e) {
      for (int other = 0; other < kWarps; ++other) {
        column[e] = maximum(column[e], sizes[other * kColumns + own * kCount + e]);
      }
      column[e] = column[e] < kZeroExponentBound ? I(0) : -column[e];
      if (first == 0 && w * kCount + e < n) {
        m.vectors.column[w * kCount + e] = column[e];
      }
    }
    for (int i = first; has_word && i < n; i += kRowsAtOnce) {
      V* const row = m.factors + int64_t(i) * n;
      Chunk<V> x = load_word(row, w, n, is_whole);
      TORCHDET_UNROLL
      for (int e = 0; e < kCount; ++e) {
        x.x[e] = scale_pow2(x.x[e], m.vectors.row[i] + column[e]);
      }
      store_word(row, w, x, n, is_whole);
    }
    if (p.op == Op::kDetHvp) {
      const I z = largest_of_direction(p, m, column);
      if (thread_index() == 0) {
        m.direction[strip] = z;
      }
    }
  }

 private:
  // The largest exponent of the strip of Z, scaled as A is; column: -c of the thread's word.
  TORCHDET_DEVICE static I largest_of_direction(const Problem& p, const LargeMatrix<V>& m,
                                                const I (&column)[kCount]) {
    const LargeReader<V> direction(p.other, m.b, m.n);
    const int strips = LargeMatrix<V>::count_column_strips(m.n);
    const int w =
        static_cast<int>(block_index() % strips) * kStripWords + thread_index() % kStripWords;
    I z = I(kZeroExponent);
    for (int i = thread_index() / kStripWords; i < m.n; i += kRowsAtOnce) {
      TORCHDET_UNROLL
      for (int e = 0; e < kCount; ++e) {
        if (w * kCount + e < m.n) {
          const V x = direction(i, w * kCount + e);
          z = maximum(z, entry_exponent(x) + m.vectors.row[i] + column[e]);
        }
      }
    }
    TORCHDET_UNROLL
    for (int mask = 1; mask < kWarpSize; mask *= 2) {
      z = maximum(z, shuffle_xor(z, mask));
    }
    I* const of_warps = shared_memory<I>() + kWarps * kColumns;
    if (thread_index() % kWarpSize == 0) {
      of_warps[thread_index() / kWarpSize] = z;
    }
    sync_block();
    for (int other = 0; other < kWarps; ++other) {
      z = maximum(z, of_warps[other]);
    }
    return z;
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
