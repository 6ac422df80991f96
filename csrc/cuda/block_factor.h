// A matrix in the shared memory of a block, and its LU with partial pivoting: the class "block".
//
// P B = L U by panels of kPanel columns, right-looking, with three passes a panel: one warp factors
// the panel in registers, then each column to its right is solved against the kPanel pivot rows,
// then all that is left loses a product of kPanel columns and kPanel rows, in tiles of registers.
// No row moves: row_index lists the rows in pivoted order, and every pass takes rows through it.
//
// Rows are read and written in words of 16 bytes. Where memory allows it a row has an odd number of
// words, so that the eight words which shared memory serves at once, if they are the same words of
// eight rows, lie in different banks.
#pragma once

#include "team_kernels.h"
#include "warp_elimination.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// As many numbers as one word holds.
template <typename V>
struct alignas(sizeof(Wide)) Chunk {
  static constexpr int kCount = kWideRows<V>;
  V x[kCount];

  TORCHDET_DEVICE static Chunk load(const V* from) { return *reinterpret_cast<const Chunk*>(from); }
  TORCHDET_DEVICE void store(V* to) const { *reinterpret_cast<Chunk*>(to) = *this; }
};

template <typename V>
constexpr int kPanel = sizeof(V) == 16 ? 4 : 8;

// Words of a row, and what rows are apart.
template <typename V>
TORCHDET_ANYWHERE int words_of(int n) {
  return (n + Chunk<V>::kCount - 1) / Chunk<V>::kCount;
}
template <typename V>
TORCHDET_ANYWHERE int block_stride(int n) {
  constexpr int kLeastScarce = 129;  // from here on a word more may be one too many
  const int words = words_of<V>(n);
  const bool collides = n < kLeastScarce ? words % 2 == 0 : words % 8 == 0;
  return (collides ? words + 1 : words) * Chunk<V>::kCount;
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

// What a block keeps in shared memory; X and what follows only for cofactors.
template <typename V, int kThreads>
struct BlockSpace {
  TeamMatrix<V> A, X = {nullptr, 0, 0};
  TeamVectors<V> vectors;
  PivotQuotient<V>* quotients = nullptr;  // by the pivots of a panel
  Scaled<V>* determinant = nullptr;

  template <bool kCounts>
  TORCHDET_ANYWHERE BlockSpace(Pieces<kCounts>& pieces, int n, bool two_matrices) {
    const int stride = block_stride<V>(n);
    A = {pieces.template take<V>(int64_t(n) * stride), n, stride};
    // Together also room for a word of each thread.
    constexpr int kLeast = kThreads * sizeof(uint32_t) / sizeof(IntegerOf<V>) / 2;
    vectors.row = pieces.template take<IntegerOf<V>>(maximum(n, kLeast));
    vectors.column = pieces.template take<IntegerOf<V>>(maximum(n, kLeast));
    vectors.row_index = pieces.template take<int>(n);
    vectors.slots = pieces.template take<unsigned char>(Team<kThreads>::kAllSlotBytes);
    if (two_matrices) {
      X = {pieces.template take<V>(int64_t(n) * stride), n, stride};
      vectors.column_index = pieces.template take<int>(n);
      vectors.row_place = pieces.template take<int>(n);
      vectors.column_place = pieces.template take<int>(n);
      quotients = pieces.template take<PivotQuotient<V>>(kPanel<V>);
      determinant = pieces.template take<Scaled<V>>(1);
    }
  }
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
template <typename R>
TORCHDET_DEVICE constexpr int32_t leading_bits_of_pow2(int e) {
  return (e + Format<R>::kMaxExponent) << kLeadingFraction<R>;
}

// What a pivot search compares: the leading bits of the size of an entry, rounded up, with the row
// in the bits of kMask. Rounding up keeps every number but 0 above 0; multipliers are at most
// 1 + 2^-15 (float), 1 + 2^-12 (double) with eight bits.
template <uint32_t kMask, typename R>
TORCHDET_DEVICE int32_t pivot_key(R size, int row) {
  uint32_t bits;
  if constexpr (sizeof(R) == 4) {
    bits = static_cast<uint32_t>(bits_of(size));
  } else {
    bits = static_cast<uint32_t>((static_cast<uint64_t>(bits_of(size)) + 0xffffffff) >> 32);
  }
  return static_cast<int32_t>(((bits + kMask) & ~kMask) | (kMask - row));
}
template <uint32_t kMask>
TORCHDET_DEVICE int row_of_key(int32_t key) {
  return static_cast<int>(kMask - (key & kMask));
}

// Of orders up to 32 kRows.
template <typename V, int kRows, int kThreads>
class BlockMatrix {
 public:
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  using T = ScalarOf<V>;
  using Space = BlockSpace<V, kThreads>;
  static constexpr int kWarps = kThreads / kWarpSize;
  static constexpr int kCount = Chunk<V>::kCount;         // numbers in a word
  static constexpr int kPanelWords = kPanel<V> / kCount;  // words in a row of a panel

  // A thread's tile of an update. The threads of a warp are 4 x 8, so that those which share a
  // quarter of an access read neighbouring words of one row.
  static constexpr int kTileRows = sizeof(V) == 4 ? 8 : 4;
  static constexpr int kTileWords = sizeof(V) == 4 ? 1 : 2;
  static constexpr int kWarpColumns = 8, kWarpRows = kWarpSize / kWarpColumns;

  TORCHDET_DEVICE BlockMatrix(const Space& space)
      : s_(space), a_(space.A.data), stride_(space.A.stride), n_(space.A.n) {}

  // Reads matrix b, and scales it where it is not balanced (math/equilibrate.h); is_scaled() tells.
  // The barriers in it also order what came before.
  TORCHDET_DEVICE Equilibration<V> read(const BatchView& view, int64_t b,
                                        TeamAlgorithms<V, kThreads>& algorithms) {
    for (int i = thread_index(); i < n_; i += kThreads) {
      s_.vectors.row_index[i] = i;
    }
    const V* from = static_cast<const V*>(view.data) + view.offset(b);
    const bool wide = view.column_stride == 1 && view.row_stride % kCount == 0 &&
                      n_ % kCount == 0 && reinterpret_cast<uintptr_t>(from) % sizeof(Wide) == 0;
    if (wide) {
      is_scaled_ = !is_balanced<true>(from, view.row_stride);
    } else {
      // The rest of the last word of a row takes part in the arithmetic, to no effect.
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
      is_scaled_ = !is_balanced<false>(a_, stride_);
    }
    if (!is_scaled_) {
      return {I(0), R(T(-0.0))};
    }
    sync_block();
    largest_ = leading_bits_of_pow2<R>(0);
    return algorithms.equilibrate();
  }
  TORCHDET_DEVICE bool is_scaled() const { return is_scaled_; }

  // P B = L U in place, L below the diagonal of the rows in pivoted order. det(B), in the first
  // warp.
  TORCHDET_DEVICE Scaled<V> factor() {
    Scaled<V> d = scaled_one<V>();
    for (int k = 0; k < n_; k += kPanel<V>) {
      if (thread_index() < kWarpSize) {
        d = factor_panel_of<kRows>(k, d);
      }
      sync_block();
      if (k + kPanel<V> < n_) {
        solve_rows(k);
        sync_block();
        update(k);
        sync_block();
      }
    }
    return d;
  }

  // Whether the thread's share of U has numbers of 2^kGrowth times the largest of B, or more. Where
  // pivots grow, partial pivoting loses what cofactors need. The growth is about n^(2/3) for usual
  // matrices, 2^(n - 1) at the worst.
  TORCHDET_DEVICE bool has_grown() const {
    constexpr int kGrowth = 7;
    int32_t largest = 0;
    for (int place = thread_index() / kWarpSize; place < n_; place += kWarps) {
      const V* const from = row(place);
      for (int w = thread_index() % kWarpSize; w < words_of<V>(n_); w += kWarpSize) {
        const Chunk<V> chunk = Chunk<V>::load(from + w * kCount);
        TORCHDET_UNROLL
        for (int e = 0; e < kCount; ++e) {
          const int j = w * kCount + e;
          largest = j >= place && j < n_ ? maximum(largest, leading_bits(chunk.x[e])) : largest;
        }
      }
    }
    return largest - largest_ >= kGrowth << kLeadingFraction<R>;
  }

  TORCHDET_DEVICE V* row(int position) const {
    return a_ + s_.vectors.row_index[position] * stride_;
  }

  // body(words, inside, tile) in threads that share the tiles of rows [begin, end) and of the words
  // [first_word, last_word) of each row: body(i, w) has the thread's rows i + 0 .. kTileRows - 1
  // and words w, w + kWarpColumns, ..
  template <typename Body>
  TORCHDET_DEVICE static void for_tiles(int begin, int end, int first_word, int last_word,
                                        Body body) {
    constexpr int kWide = kWarpColumns * kTileWords, kHigh = kWarpRows * kTileRows;
    const int lane = thread_index() % kWarpSize;
    const int count = last_word - first_word;
    const int i = begin + lane / kWarpColumns * kTileRows;
    const int w = first_word + lane % kWarpColumns;
    int down = 0, right = thread_index() / kWarpSize * kWide;
    while (true) {
      while (right >= count) {
        right -= (count + kWide - 1) / kWide * kWide;
        down += kHigh;
      }
      if (begin + down >= end) {
        return;
      }
      if (i + down < end && w + right < last_word) {
        body(i + down, w + right);
      }
      right += kWarps * kWide;
    }
  }

 private:
  // Whether the matrix may stay as it is; kCopy: it is read from elsewhere, and copied to A.
  template <bool kCopy>
  TORCHDET_DEVICE bool is_balanced(const V* from, int64_t stride) {
    // Warps take rows, lanes take words of them, and keep the sizes of their columns.
    constexpr int kWords = (kRows * kWarpSize / kCount + kWarpSize - 1) / kWarpSize, kAhead = 4;
    const int warp = thread_index() / kWarpSize, lane = thread_index() % kWarpSize;
    const int words = words_of<V>(n_);
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
      TORCHDET_UNROLL
      for (int t = 0; t < kAhead; ++t) {
        const int i = first + t * kWarps;
        TORCHDET_UNROLL
        for (int w = 0; w < kWords; ++w) {
          if (i < n_ && lane + w * kWarpSize < words) {
            chunk[t][w] = Chunk<V>::load(from + i * stride + (lane + w * kWarpSize) * kCount);
          }
        }
      }
      TORCHDET_UNROLL
      for (int t = 0; t < kAhead; ++t) {
        const int i = first + t * kWarps;
        int32_t size = 0;
        TORCHDET_UNROLL
        for (int w = 0; w < kWords; ++w) {
          if (i < n_ && lane + w * kWarpSize < words) {
            if constexpr (kCopy) {
              chunk[t][w].store(a_ + i * stride_ + (lane + w * kWarpSize) * kCount);
            }
            TORCHDET_UNROLL
            for (int e = 0; e < kCount; ++e) {
              const int32_t bits = leading_bits(chunk[t][w].x[e]);
              column[w][e] = maximum(column[w][e], bits);
              size = maximum(size, bits);
            }
          }
        }
        size = reduce_maximum_in_warp(size);
        largest = maximum(largest, size);
        least = i < n_ ? minimum(least, size) : least;
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
    const int32_t bound =
        maximum(largest - (kBalance<0> << kLeadingFraction<R>), leading_bits_of_pow2<R>(-kCentral));
    // Which columns have a large entry, a bit for each of the lane's. The exponents, not there yet,
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

  // factor_panel with as few rows per lane as there are left.
  template <int kHeld>
  TORCHDET_DEVICE Scaled<V> factor_panel_of(int k, Scaled<V> d) {
    if constexpr (kHeld > 1) {
      constexpr int kLess = kHeld / 2;
      if (n_ - k <= kLess * kWarpSize) {
        return factor_panel_of<kLess>(k, d);
      }
    }
    return factor_panel<kHeld>(k, d);
  }

  // The panel of columns k, k + 1, .. by one warp, lane t holding rows k + t + 32 r of the list;
  // d times its pivots, with the sign of their permutation. The list is put in order: first the
  // pivot rows, then the others as they were.
  template <int kHeld>
  TORCHDET_DEVICE Scaled<V> factor_panel(int k, Scaled<V> d) {
    constexpr int P = kPanel<V>;
    constexpr uint32_t kMask = 32 * (kHeld == 1 ? 1 : kHeld == 2 ? 2 : kHeld <= 4 ? 4 : 8) - 1;
    constexpr int kWaiting = -1, kAbsent = P;
    const int lane = thread_index() % kWarpSize;
    const int left = n_ - k;
    V m[kHeld][P];
    int index[kHeld], place[kHeld];  // place: which pivot row of the panel this is
    TORCHDET_UNROLL
    for (int r = 0; r < kHeld; ++r) {
      const bool is_present = lane + r * kWarpSize < left;
      place[r] = is_present ? kWaiting : kAbsent;
      index[r] = is_present ? s_.vectors.row_index[k + lane + r * kWarpSize] : 0;
      TORCHDET_UNROLL
      for (int c = 0; c < P; ++c) {
        m[r][c] = zero<V>();
      }
      TORCHDET_UNROLL
      for (int w = 0; w < kPanelWords; ++w) {
        if (is_present && w * kCount < left) {
          const Chunk<V> chunk = Chunk<V>::load(a_ + index[r] * stride_ + k + w * kCount);
          TORCHDET_UNROLL
          for (int e = 0; e < kCount; ++e) {
            m[r][w * kCount + e] = chunk.x[e];
          }
        }
      }
    }
    int chosen[P];
    bool is_odd = false;
    for_steps<0, P, true>([&](auto step) {
      constexpr int t = decltype(step)::value;
      chosen[t] = n_;
      if (t < left) {
        int32_t key = std::numeric_limits<int32_t>::min();
        TORCHDET_UNROLL
        for (int r = 0; r < kHeld; ++r) {
          const int32_t own = pivot_key<kMask>(pivot_size(m[r][t]), lane + r * kWarpSize);
          key = place[r] == kWaiting ? maximum(key, own) : key;
        }
        const int q = row_of_key<kMask>(reduce_maximum_in_warp(key));
        chosen[t] = q;
        int waiting_before = q;  // the row passes these
        TORCHDET_UNROLL
        for (int s = 0; s < P; ++s) {
          if (s < t) {
            waiting_before -= chosen[s] < q ? 1 : 0;
          }
        }
        is_odd = is_odd != (waiting_before % 2 == 1);
        V u[P];
        TORCHDET_UNROLL
        for (int c = 0; c < P; ++c) {
          if (c >= t) {
            V x = m[0][c];
            TORCHDET_UNROLL
            for (int r = 1; r < kHeld; ++r) {
              x = select(q / kWarpSize == r, m[r][c], x);
            }
            u[c] = shuffle_number(x, q % kWarpSize);
          }
        }
        const PivotQuotient<V> quotient(u[t]);
        TORCHDET_UNROLL
        for (int r = 0; r < kHeld; ++r) {
          place[r] = lane + r * kWarpSize == q ? t : place[r];
          const bool is_waiting = place[r] == kWaiting;
          const V l = select(is_waiting, quotient(m[r][t]), zero<V>());
          m[r][t] = select(is_waiting, l, m[r][t]);
          TORCHDET_UNROLL
          for (int c = 0; c < P; ++c) {
            if (c > t) {
              m[r][c] = fnma(l, u[c], m[r][c]);
            }
          }
        }
        // Mantissas are below 2 (2 sqrt(2) in modulus where complex), so P of them need no care.
        const Scaled<V> pivot = normalise(u[t], I(0));
        d.mantissa = d.mantissa * pivot.mantissa;
        d.exponent = d.exponent + pivot.exponent;
      }
    });
    sync_warp();
    TORCHDET_UNROLL
    for (int r = 0; r < kHeld; ++r) {
      const int own = lane + r * kWarpSize;
      if (own < left) {
        int to = place[r];
        if (to == kWaiting) {
          to = own;
          TORCHDET_UNROLL
          for (int t = 0; t < P; ++t) {
            to += chosen[t] > own ? 1 : 0;
          }
        }
        s_.vectors.row_index[k + to] = index[r];
      }
      TORCHDET_UNROLL
      for (int w = 0; w < kPanelWords; ++w) {
        if (own < left && w * kCount < left) {
          Chunk<V> chunk;
          TORCHDET_UNROLL
          for (int e = 0; e < kCount; ++e) {
            chunk.x[e] = m[r][w * kCount + e];
          }
          chunk.store(a_ + index[r] * stride_ + k + w * kCount);
        }
      }
    }
    d = normalise(d.mantissa, d.exponent);
    d.mantissa = is_odd ? -d.mantissa : d.mantissa;
    return d;
  }

  // Rows k .. k + kPanel - 1 of U to the right of the panel: L11 u = a, a thread for each column.
  TORCHDET_DEVICE void solve_rows(int k) {
    constexpr int P = kPanel<V>;
    for (int j = k + P + thread_index(); j < n_; j += kThreads) {
      V u[P] = {zero<V>()};
      for_steps<0, P, true>([&](auto step) {
        constexpr int t = decltype(step)::value;
        V* const a = row(k + t);
        V x = a[j];
        TORCHDET_UNROLL
        for (int w = 0; w < kPanelWords; ++w) {
          if (w * kCount < t) {
            const Chunk<V> l = Chunk<V>::load(a + k + w * kCount);
            TORCHDET_UNROLL
            for (int e = 0; e < kCount; ++e) {
              if (w * kCount + e < t) {
                x = fnma(l.x[e], u[w * kCount + e], x);
              }
            }
          }
        }
        u[t] = x;
        a[j] = x;
      });
    }
  }

  // What is below and to the right of the panel loses L21 U12.
  TORCHDET_DEVICE void update(int k) {
    constexpr int P = kPanel<V>;
    const int end = words_of<V>(n_);
    for_tiles(k + P, n_, (k + P) / kCount, end, [&](int i, int first_word) {
      V* to[kTileRows];
      Chunk<V> c[kTileRows][kTileWords];
      TORCHDET_UNROLL
      for (int r = 0; r < kTileRows; ++r) {
        to[r] = row(i + r < n_ ? i + r : i);
        TORCHDET_UNROLL
        for (int w = 0; w < kTileWords; ++w) {
          const int word = first_word + w * kWarpColumns;
          if (w == 0 || word < end) {
            c[r][w] = Chunk<V>::load(to[r] + word * kCount);
          }
        }
      }
      TORCHDET_UNROLL
      for (int v = 0; v < kPanelWords; ++v) {
        Chunk<V> l[kTileRows];
        TORCHDET_UNROLL
        for (int r = 0; r < kTileRows; ++r) {
          l[r] = Chunk<V>::load(to[r] + k + v * kCount);
        }
        TORCHDET_UNROLL
        for (int e = 0; e < kCount; ++e) {
          const V* const from = row(k + v * kCount + e);
          TORCHDET_UNROLL
          for (int w = 0; w < kTileWords; ++w) {
            const int word = first_word + w * kWarpColumns;
            if (w == 0 || word < end) {
              const Chunk<V> u = Chunk<V>::load(from + word * kCount);
              TORCHDET_UNROLL
              for (int r = 0; r < kTileRows; ++r) {
                TORCHDET_UNROLL
                for (int x = 0; x < kCount; ++x) {
                  c[r][w].x[x] = fnma(l[r].x[e], u.x[x], c[r][w].x[x]);
                }
              }
            }
          }
        }
      }
      TORCHDET_UNROLL
      for (int r = 0; r < kTileRows; ++r) {
        TORCHDET_UNROLL
        for (int w = 0; w < kTileWords; ++w) {
          const int word = first_word + w * kWarpColumns;
          if (i + r < n_ && (w == 0 || word < end)) {
            c[r][w].store(to[r] + word * kCount);
          }
        }
      }
    });
  }

  const Space& s_;
  V* const a_;
  const int stride_, n_;
  bool is_scaled_ = false;
  int32_t largest_ = 0;  // leading bits of the largest entry of B, about
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
