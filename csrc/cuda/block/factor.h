// LU with partial pivoting of a matrix in the shared memory of a block.
//
// P B = L U by panels of kPanel columns, right-looking, with three passes a panel: one warp factors
// the panel in registers, then each column to its right is solved against the kPanel pivot rows,
// then all that is left loses a product of kPanel columns and kPanel rows, in tiles of registers.
#pragma once

#include "matrix.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

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
  bits = minimum(bits, 0x7fffffffu - kMask);  // a NaN of a GPU is 0x7fffffff
  return static_cast<int32_t>(((bits + kMask) & ~kMask) | (kMask - row));
}
template <uint32_t kMask>
TORCHDET_DEVICE int row_of_key(int32_t key) {
  return static_cast<int>(kMask - (key & kMask));
}

template <typename V, int kRows, int kThreads>
class BlockFactors : public BlockMatrix<V, kRows, kThreads> {
 public:
  using Base = BlockMatrix<V, kRows, kThreads>;
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  using Base::Base, Base::kCount, Base::kPanelWords, Base::kTileRows, Base::kTileWords,
      Base::kWarpColumns, Base::row;

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

 private:
  using Base::s_, Base::a_, Base::stride_, Base::n_;

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
    Base::for_tiles(k + P, n_, (k + P) / kCount, end, [&](int i, int first_word) {
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
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
