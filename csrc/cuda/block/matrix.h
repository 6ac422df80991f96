// A matrix in the shared memory of a block: the class "block". How it lies there, how it is read
// and looked at, and how threads share it.
//
// Rows are read and written in words of 16 bytes. Where memory allows it a row has an odd number of
// words, so that the eight words which shared memory serves at once, if they are the same words of
// eight rows, lie in different banks. No row ever moves: lists have them in pivoted order.
#pragma once

#include "../team/kernels.h"
#include "../warp/matrix.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// Columns of a panel. What a lane keeps of the rows of U in the passes is in 64 registers: with
// panels of 16 columns, for one word of each. Then a number of A is loaded and stored half as often
// as with 8 columns and two words; in float32, whose words have four numbers, that outweighs the
// multipliers, which are loaded twice as often. But the code of a panel is three times as long, and
// a warp runs through it once for each panel. So 16 are for the largest determinants, whose passes
// take most of the time.
template <typename V, bool kIsLarge>
constexpr int kPanel = sizeof(V) == 16              ? 4
                       : sizeof(V) == 4 && kIsLarge ? 16
                                                    : 8;

// Words of a row, and what rows are apart.
template <typename V>
TORCHDET_ANYWHERE int words_of(int n) {
  return (n + Chunk<V>::kCount - 1) / Chunk<V>::kCount;
}
template <typename V>
TORCHDET_ANYWHERE int block_stride(int n) {
  // From here on a word more is one too many for 227 KB.
  constexpr int kLeastScarce = sizeof(V) == 4 ? 237 : 168;
  const int words = words_of<V>(n);
  const bool collides = n < kLeastScarce ? words % 2 == 0 : words % 8 == 0;
  return (collides ? words + 1 : words) * Chunk<V>::kCount;
}

// Word w of a row in memory of our own.
template <typename V>
TORCHDET_DEVICE void store_word(V* row, int w, const Chunk<V>& x, int n, bool is_whole) {
  if (is_whole) {
    x.store_elsewhere(row + w * Chunk<V>::kCount);
    return;
  }
  TORCHDET_UNROLL
  for (int e = 0; e < Chunk<V>::kCount; ++e) {
    if (w * Chunk<V>::kCount + e < n) {
      row[w * Chunk<V>::kCount + e] = x.x[e];
    }
  }
}
template <typename V>
TORCHDET_DEVICE Chunk<V> load_word(const V* row, int w, int n, bool is_whole) {
  if (is_whole) {
    return Chunk<V>::load_elsewhere(row + w * Chunk<V>::kCount);
  }
  Chunk<V> x;
  TORCHDET_UNROLL
  for (int e = 0; e < Chunk<V>::kCount; ++e) {
    const int j = w * Chunk<V>::kCount + e;
    x.x[e] = j < n ? row[j] : zero<V>();
  }
  return x;
}

// Shared memory cut into pieces, or their bytes alone. The address is not compared with anything:
// the compiler has to see that it is one of shared memory.
template <bool kCounts>
class Pieces {
 public:
  TORCHDET_ANYWHERE explicit Pieces(unsigned char* memory) : memory_(memory) {}
  template <typename X>
  TORCHDET_ANYWHERE X* take(int64_t count) {
    const size_t begin = bytes;
    bytes += (sizeof(X) * count + sizeof(Wide) - 1) / sizeof(Wide) * sizeof(Wide);
    if constexpr (kCounts) {
      return nullptr;
    } else {
      return reinterpret_cast<X*>(memory_ + begin);
    }
  }
  size_t bytes = 0;

 private:
  unsigned char* memory_;
};

// What a block keeps in shared memory. The slots come last: least_slots bytes, or more, that an
// algorithm may use between two reductions. Before them are the exponents of columns. A has no room
// for the last kLate columns (factor.h).
template <typename V, int kThreads, int kLate = 0>
struct BlockSpace {
  using I = IntegerOf<V>;
  TeamMatrix<V> A;
  TeamVectors<V> vectors = {};

  // rows: those that there is room for.
  template <bool kCounts>
  TORCHDET_ANYWHERE BlockSpace(Pieces<kCounts>& pieces, int n, int least_slots, int rows) {
    const int stride = block_stride<V>(n - kLate), count = vector_size(n);
    A = {pieces.template take<V>(int64_t(rows) * stride), n, stride};
    vectors.row = pieces.template take<I>(count);
    vectors.row_index = pieces.template take<int>(count);
    vectors.column = pieces.template take<I>(count);
    vectors.slots =
        pieces.template take<unsigned char>(maximum(Team<kThreads>::kAllSlotBytes, least_slots));
  }

  // What slots that begin where the exponents of columns do have more than the others.
  TORCHDET_ANYWHERE static int more_slots(int n) {
    constexpr int kWord = sizeof(Wide);
    return (vector_size(n) * static_cast<int>(sizeof(I)) + kWord - 1) / kWord * kWord;
  }

 private:
  // The three vectors also have room for a word of each thread.
  TORCHDET_ANYWHERE static int vector_size(int n) { return maximum(n, (kThreads + 2) / 3); }
};

// The leading 32 bits of the size of a number: they order like it, and those of NaN and infinity
// are the largest.
TORCHDET_DEVICE int32_t leading_bits(float x) {
  return bits_of(abs(x));
}
TORCHDET_DEVICE int32_t leading_bits(double x) {
  return static_cast<int32_t>(bits_of(abs(x)) >> 32);
}
template <typename R>
TORCHDET_DEVICE int32_t leading_bits(Complex<R> x) {
  return maximum(leading_bits(x.re), leading_bits(x.im));
}
template <typename R>
constexpr int kLeadingFraction = sizeof(R) == 4 ? 23 : 20;
// Of numbers that are not subnormal.
template <typename R>
TORCHDET_DEVICE IntegerOf<R> exponent_of_leading_bits(int32_t bits) {
  return (bits >> kLeadingFraction<R>)-Format<R>::kMaxExponent;
}
// The number of which leading_bits() are given, rounded towards 0.
template <typename R>
TORCHDET_DEVICE R from_leading_bits(int32_t bits) {
  return from_bits(static_cast<IntegerOf<R>>(bits) << (8 * (sizeof(R) - sizeof(bits))));
}

template <typename R>
TORCHDET_DEVICE constexpr int32_t leading_bits_of_pow2(int e) {
  return (e + Format<R>::kMaxExponent) << kLeadingFraction<R>;
}

// The rule of math/equilibrate.h on leading bits: in a balanced matrix, whose largest entry is
// `largest`, the largest entry of every row and column is least_balanced() or more.
template <typename R>
TORCHDET_DEVICE int32_t least_balanced(int32_t largest) {
  return maximum(largest - (kBalance<0> << kLeadingFraction<R>),
                 leading_bits_of_pow2<R>(-kCentral));
}

// Of orders up to 32 kRows.
template <typename V, int kRows, int kThreads, int kLate = 0>
class BlockMatrix {
 public:
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  using T = ScalarOf<V>;
  using Space = BlockSpace<V, kThreads, kLate>;
  static constexpr int kWarps = kThreads / kWarpSize;
  static constexpr int kCount = Chunk<V>::kCount;  // numbers in a word

  TORCHDET_DEVICE BlockMatrix(const Space& space)
      : s_(space), a_(space.A.data), stride_(space.A.stride), n_(space.A.n) {}

  // Reads matrix b, and scales it where it is not balanced (math/equilibrate.h); is_scaled() tells.
  // The barriers in it also order what came before.
  TORCHDET_DEVICE Equilibration<V> read(const BatchView& view, int64_t b,
                                        TeamAlgorithms<V, kThreads>& algorithms) {
    const V* from = static_cast<const V*>(view.data) + view.offset(b);
    const bool wide = has_words(view, from);
    if (wide || kLate > 0 || view.column_stride == 1) {
      // Two copies of the loop: the choice is not made anew for every word.
      is_scaled_ =
          !(wide ? is_balanced<true>([&](int i, int j) { return load_word(view, from, i, j); })
                 : is_balanced<true>([&](int i, int j) { return load_numbers(view, from, i, j); }));
    } else if constexpr (kLate == 0) {
      // The way of any strides. The rest of the last word of a row takes part in the arithmetic, to
      // no effect.
      const int padding = words_of<V>(n_) * kCount - n_;
      for (int i = thread_index(); i < n_; i += kThreads) {
        TORCHDET_UNROLL
        for (int j = 0; j < kCount - 1; ++j) {
          if (j < padding) {
            a_[i * stride_ + n_ + j] = zero<V>();
          }
        }
      }
      algorithms.read(view, b);
      is_scaled_ =
          !is_balanced<false>([&](int i, int j) { return Chunk<V>::load(a_ + i * stride_ + j); });
    }
    if (!is_scaled_) {
      return {I(0), R(T(-0.0))};
    }
    sync_block();
    largest_ = leading_bits_of_pow2<R>(0);
    if constexpr (kLate > 0) {
      return algorithms.equilibrate(n_ - kLate, [&](int i, int j) {
        return from[i * view.row_stride + j * view.column_stride];
      });
    } else {
      return algorithms.equilibrate();
    }
  }
  // Row i of the last kLate columns, scaled where read() has scaled the others.
  template <int kNumbers>
  TORCHDET_DEVICE void load_late(const BatchView& view, int64_t b, int i, bool is_scaled,
                                 V (&x)[kNumbers]) const {
    static_assert(kNumbers == kLate);
    const V* from = static_cast<const V*>(view.data) + view.offset(b);
    const bool wide = has_words(view, from);
    TORCHDET_UNROLL
    for (int w = 0; w < kLate / kCount; ++w) {
      const int j = n_ - kLate + w * kCount;
      const auto chunk = wide ? load_word(view, from, i, j) : load_numbers(view, from, i, j);
      TORCHDET_UNROLL
      for (int e = 0; e < kCount; ++e) {
        x[w * kCount + e] = chunk.x[e];
      }
    }
    if (is_scaled) {
      TORCHDET_UNROLL
      for (int e = 0; e < kLate; ++e) {
        x[e] = scale_pow2(x[e], s_.vectors.row[i] + s_.vectors.column[n_ - kLate + e]);
      }
    }
  }
  TORCHDET_DEVICE bool is_scaled() const { return is_scaled_; }
  // Leading bits of the largest entry of B, about.
  TORCHDET_DEVICE int32_t largest() const { return largest_; }

  // Whether a number of U, of those leading bits, is 2^kGrowth times the largest of B, or more.
  // Where pivots grow, partial pivoting loses what cofactors need. The growth is about n^(2/3) for
  // usual matrices, 2^(n - 1) at the worst.
  TORCHDET_DEVICE static bool has_grown(int32_t bits, int32_t largest) {
    constexpr int kGrowth = 7;
    return bits - largest >= kGrowth << kLeadingFraction<R>;
  }

 private:
  // Whether a matrix consists of whole words.
  TORCHDET_DEVICE bool has_words(const BatchView& view, const V* from) const {
    return view.column_stride == 1 && view.row_stride % kCount == 0 && n_ % kCount == 0 &&
           reinterpret_cast<uintptr_t>(from) % sizeof(Wide) == 0;
  }
  // Entries (i, j), (i, j + 1), .. of it, and of any other; zeros beyond the end of the row.
  TORCHDET_DEVICE Chunk<V> load_word(const BatchView& view, const V* from, int i, int j) const {
    return Chunk<V>::load_elsewhere(from + i * view.row_stride + j);
  }
  TORCHDET_DEVICE Chunk<V> load_numbers(const BatchView& view, const V* from, int i, int j) const {
    Chunk<V> chunk;
    TORCHDET_UNROLL
    for (int e = 0; e < kCount; ++e) {
      chunk.x[e] =
          j + e < n_ ? from[i * view.row_stride + (j + e) * view.column_stride] : zero<V>();
    }
    return chunk;
  }

  // Whether the matrix may stay as it is, of which load(i, j) is the word at (i, j). kCopy: what A
  // has room for is copied to it.
  template <bool kCopy, typename Load>
  TORCHDET_DEVICE bool is_balanced(Load load) {
    // Warps take rows, lanes take words of them, and keep the sizes of their columns.
    constexpr int kWords = (kRows * kWarpSize / kCount + kWarpSize - 1) / kWarpSize;
    constexpr int kAhead = kWords == 1 ? 8 : 4;
    const int warp = thread_index() / kWarpSize, lane = thread_index() % kWarpSize;
    const int words = words_of<V>(n_), kept_words = words_of<V>(n_ - kLate);
    int32_t column[kWords][kCount];
    TORCHDET_UNROLL
    for (int w = 0; w < kWords; ++w) {
      TORCHDET_UNROLL
      for (int e = 0; e < kCount; ++e) {
        column[w][e] = 0;
      }
    }
    int32_t largest = 0, least = std::numeric_limits<int32_t>::max();
    TORCHDET_ROLL
    for (int first = warp; first < n_; first += kWarps * kAhead) {
      Chunk<V> chunk[kAhead][kWords];
      // Rows and words that are not there are copies of the last ones.
      TORCHDET_UNROLL
      for (int t = 0; t < kAhead; ++t) {
        TORCHDET_UNROLL
        for (int w = 0; w < kWords; ++w) {
          chunk[t][w] = load(minimum(first + t * kWarps, n_ - 1),
                             minimum(lane + w * kWarpSize, words - 1) * kCount);
        }
      }
      TORCHDET_UNROLL
      for (int t = 0; t < kAhead; ++t) {
        const int i = first + t * kWarps;
        int32_t size = 0;
        TORCHDET_UNROLL
        for (int w = 0; w < kWords; ++w) {
          if (kCopy && i < n_ && lane + w * kWarpSize < kept_words) {
            chunk[t][w].store(a_ + i * stride_ + (lane + w * kWarpSize) * kCount);
          }
          TORCHDET_UNROLL
          for (int e = 0; e < kCount; ++e) {
            const int32_t bits = leading_bits(chunk[t][w].x[e]);
            column[w][e] = maximum(column[w][e], bits);
            size = maximum(size, bits);
          }
        }
        size = reduce_maximum_in_warp(size);
        largest = maximum(largest, size);
        least = minimum(least, size);
      }
    }
    int32_t* sizes = reinterpret_cast<int32_t*>(s_.vectors.slots);
    if (lane == 0) {
      sizes[2 * warp] = largest;
      sizes[2 * warp + 1] = least;
    }
    sync_block();
    TORCHDET_UNROLL
    for (int w = 0; w < kWarps; ++w) {
      largest = maximum(largest, sizes[2 * w]);
      least = minimum(least, sizes[2 * w + 1]);
    }
    largest_ = largest;
    const int32_t bound = least_balanced<R>(largest);
    // Which columns have a large entry, a bit for each of the lane's. The vectors, not there yet,
    // leave their memory to these bits.
    uint32_t* flags = reinterpret_cast<uint32_t*>(s_.vectors.row);
    uint32_t large = 0, wanted = 0;
    TORCHDET_UNROLL
    for (int w = 0; w < kWords; ++w) {
      TORCHDET_UNROLL
      for (int e = 0; e < kCount; ++e) {
        const uint32_t bit = 1u << (w * kCount + e);
        large |= column[w][e] >= bound ? bit : 0;
        wanted |= (lane + w * kWarpSize) * kCount + e < n_ ? bit : 0;
      }
    }
    flags[thread_index()] = large;
    sync_block();
    TORCHDET_UNROLL
    for (int w = 0; w < kWarps; ++w) {
      large |= flags[w * kWarpSize + lane];
    }
    return !any_in_warp((wanted & ~large) != 0) && least >= bound &&
           largest <= leading_bits_of_pow2<R>(kCentral);
  }

  const Space& s_;
  V* const a_;
  const int stride_, n_;
  bool is_scaled_ = false;
  int32_t largest_ = 0;
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
