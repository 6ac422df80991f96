// What eliminations in the shared memory of a block share (factor.h, sweep.h): the search for a
// pivot by all warps, and the passes over the columns outside a panel.
//
// In a panel of kPanel columns a thread holds a row, in registers. In each step a warp shows its
// best row beside its key, before it is known which warp has the best of all: one barrier a step.
//
// Outside the panel a warp owns columns. For the pivot rows Q and columns K of the panel, P A_QK =
// L11 U11, it computes x = L11^-1 A_(Q, j) for its columns j, keeps x in registers, and subtracts
// l_i x from the rows i, which hold their multipliers l_i in the columns K. What a warp reads of x
// it has written itself: no barrier of the block lies between, and a panel needs two.
#pragma once

#include "../pivot.h"
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

// What the threads of a block show each other.
template <typename V, int kThreads>
struct PanelExchange {
  static constexpr int P = kPanel<V>, kWarps = kThreads / kWarpSize;
  // The best row of each warp, and its key. Steps take turns: what is read in a step is written
  // again two steps later, behind the barrier of the step between.
  struct alignas(sizeof(Wide)) Proposals {
    V rows[kWarps][P];
    int32_t keys[kWarps];
  };
  Proposals proposals[2];
  alignas(sizeof(Wide)) V factors[P][P];   // L11 and U11, one beside the other
  alignas(sizeof(Wide)) V reciprocals[P];  // of the pivots, for the sweep
};

template <typename V, int kThreads>
class BlockPanels {
 public:
  using R = RealOf<V>;
  using Exchange = PanelExchange<V, kThreads>;
  static constexpr int P = kPanel<V>, kCount = Chunk<V>::kCount, kPanelWords = P / kCount;
  static constexpr int kWarps = kThreads / kWarpSize;

  TORCHDET_DEVICE BlockPanels(TeamMatrix<V> A, int* row_index, Exchange& exchange)
      : a_(A.data),
        stride_(A.stride),
        n_(A.n),
        row_index_(row_index),
        exchange_(exchange),
        warp_(thread_index() / kWarpSize) {}

  // The thread's share of the sign of the permutation: an odd number of inversions.
  TORCHDET_DEVICE bool is_odd() const { return is_odd_; }

 protected:
  static constexpr uint32_t kMask = kThreads - 1;
  static_assert((kThreads & (kThreads - 1)) == 0);

  // Numbers k .. k + kPanel - 1 of a row, as far as there are any.
  TORCHDET_DEVICE void load_row(const V* row, int k, bool is_present, V (&x)[P]) const {
    TORCHDET_UNROLL
    for (int w = 0; w < kPanelWords; ++w) {
      const bool is_inside = is_present && k + w * kCount < n_;
      Chunk<V> chunk;
      if (is_inside) {
        chunk = load_shared<Chunk<V>>(row + k + w * kCount);
      }
      TORCHDET_UNROLL
      for (int e = 0; e < kCount; ++e) {
        x[w * kCount + e] = is_inside ? chunk.x[e] : zero<V>();
      }
    }
  }
  TORCHDET_DEVICE void store_row(V* row, int k, bool is_present, const V (&x)[P]) const {
    TORCHDET_UNROLL
    for (int w = 0; w < kPanelWords; ++w) {
      if (is_present && k + w * kCount < n_) {
        store_word(row + k, w, x);
      }
    }
  }
  TORCHDET_DEVICE static void store_words(V* to, const V (&x)[P]) {
    TORCHDET_UNROLL
    for (int w = 0; w < kPanelWords; ++w) {
      store_word(to, w, x);
    }
  }

  // A key below those of all rows that may be chosen.
  TORCHDET_DEVICE static int32_t key_of_none() { return ~thread_index(); }

  // The thread with the largest key, and its row m: of the first `threads` threads, which all call
  // this. No two keys are the same.
  TORCHDET_DEVICE int choose(int32_t key, const V (&m)[P], int step, int threads, V (&u)[P]) const {
    auto& proposals = exchange_.proposals[step % 2];
    if (key == reduce_maximum_in_warp(key)) {
      proposals.keys[warp_] = key;
      store_words(proposals.rows[warp_], m);
    }
    constexpr int kBarrier = 1;
    sync_threads(kBarrier, threads);
    constexpr int kKeys = kWarps < 4 ? kWarps : 4;
    key = std::numeric_limits<int32_t>::min();
    TORCHDET_UNROLL
    for (int first = 0; first < kWarps; first += kKeys) {
      const auto keys = load_shared<Word<4 * kKeys>>(proposals.keys + first);
      TORCHDET_UNROLL
      for (int w = 0; w < kKeys; ++w) {
        key = maximum(key, static_cast<int32_t>(keys.parts[w]));
      }
    }
    const int q = row_of_key<kMask>(key);
    TORCHDET_UNROLL
    for (int w = 0; w < kPanelWords; ++w) {
      const auto chunk = load_shared<Chunk<V>>(proposals.rows[q / kWarpSize] + w * kCount);
      TORCHDET_UNROLL
      for (int e = 0; e < kCount; ++e) {
        u[w * kCount + e] = chunk.x[e];
      }
    }
    return q;
  }
  // For warps that call choose() no more. A barrier has to follow.
  TORCHDET_DEVICE void propose_nothing() const {
    if (thread_index() % kWarpSize == 0) {
      exchange_.proposals[0].keys[warp_] = key_of_none();
      exchange_.proposals[1].keys[warp_] = key_of_none();
    }
  }

  // The passes outside the panel. kSweep: over all rows, wherever they lie, and the words on both
  // sides of the panel; pivot rows are left as x times their reciprocal before their multipliers
  // apply. Else over the rows of the list and the words beyond the panel.
  template <bool kSweep>
  TORCHDET_DEVICE void update(int k) {
    const int before = kSweep ? k / kCount : 0;
    const int end = before + maximum(words_of<V>(n_) - k / kCount - kPanelWords, 0);
    // Warps have equal shares, as near as may be: lanes are divided as that asks.
    const int each = (end + kWarps - 1) / kWarps;
    const int across = maximum(minimum((each + kTileWords - 1) / kTileWords, kMostAcross), 1);
    const int lane = thread_index() % kWarpSize, group = lane / across;
    TORCHDET_ROLL
    for (int first = warp_ * across * kTileWords; first < end;
         first += kWarps * across * kTileWords) {
      update<kSweep>(k, before, first, lane % across, end, across, group);
    }
  }

  V* const a_;
  const int stride_, n_;
  int* const row_index_;
  Exchange& exchange_;
  const int warp_;
  bool is_odd_ = false;
  int32_t largest_ = 0;  // leading bits of the largest number in the thread's share of U

 private:
  // A lane's columns in the passes are kTileWords words, across lanes apart. The lanes of a warp
  // form groups, which take turns at the rows. In a row a group reads and writes its part of the
  // row, and reads kPanel multipliers, which its lanes share. For float32 that is
  //     2 x 4 + 2 x 4 + 2 x 2 wavefronts of shared memory a warp for 64 multiply-adds a lane,
  // 16 clocks of an SM, if two neighbours with one address take half the wavefronts.
  static constexpr int kTileWords = sizeof(V) == 16 ? 4 : 2;
  static constexpr int kTileColumns = kTileWords * kCount;
  // As many groups as a lane has columns: each solves for one of them.
  static constexpr int kMostAcross = kWarpSize / kTileColumns;

  TORCHDET_DEVICE static void store_word(V* to, int w, const V (&x)[P]) {
    Chunk<V> chunk;
    TORCHDET_UNROLL
    for (int e = 0; e < kCount; ++e) {
      chunk.x[e] = x[w * kCount + e];
    }
    store_shared(to + w * kCount, chunk);
  }

  // Of one strip: the lane's words are number first + word, first + word + across, .. of those
  // outside the panel, as far as they are below end.
  template <bool kSweep>
  TORCHDET_DEVICE void update(int k, int before, int first, int word, int end, int across,
                              int group) {
    const int left = n_ - k, own = first + word;
    const auto column_at = [&](int v) {
      return (v < before ? v : v - before + k / kCount + kPanelWords) * kCount;
    };
    int pivot_row[P];
    TORCHDET_UNROLL
    for (int t = 0; t < P; ++t) {
      pivot_row[t] = row_index_[!kSweep || t < left ? k + t : k] * stride_;
    }
    // x for one column of the lane's words.
    const int v = own + group / kCount * across, j = column_at(v) + group % kCount;
    const bool is_solver = group < kTileColumns && v < end;
    V solution[P];
    if (is_solver) {
      for_steps<0, P, true>([&](auto step) {
        constexpr int t = decltype(step)::value;
        solution[t] = zero<V>();
        if (!kSweep || t < left) {
          V x = load_shared<V>(a_ + pivot_row[t] + j);
          TORCHDET_UNROLL
          for (int w = 0; w < kPanelWords; ++w) {
            if (w * kCount < t) {
              const auto factor = load_shared<Chunk<V>>(exchange_.factors[t] + w * kCount);
              TORCHDET_UNROLL
              for (int e = 0; e < kCount; ++e) {
                if (w * kCount + e < t) {
                  x = fnma(factor.x[e], solution[w * kCount + e], x);
                }
              }
            }
          }
          solution[t] = x;
          store_shared(a_ + pivot_row[t] + j, x);
          if constexpr (kSweep) {
            largest_ = j > k && j < n_ ? maximum(largest_, leading_bits(x)) : largest_;
          }
        }
      });
    }
    sync_warp();
    Chunk<V> x[P][kTileWords];
    int column[kTileWords];
    TORCHDET_UNROLL
    for (int w = 0; w < kTileWords; ++w) {
      // Where it has no further word, its own once more: no other lane writes what it reads.
      column[w] = column_at(own + w * across < end ? own + w * across : own < end ? own : first);
      TORCHDET_UNROLL
      for (int t = 0; t < P; ++t) {
        x[t][w] = load_shared<Chunk<V>>(a_ + pivot_row[t] + column[w]);
        TORCHDET_UNROLL
        for (int e = 0; e < kCount; ++e) {
          x[t][w].x[e] = !kSweep || t < left ? x[t][w].x[e] : zero<V>();
        }
      }
    }
    if constexpr (kSweep) {
      sync_warp();
      if (is_solver) {
        TORCHDET_UNROLL
        for (int t = 0; t < P; ++t) {
          if (t < left) {
            store_shared(a_ + pivot_row[t] + j, solution[t] * exchange_.reciprocals[t]);
          }
        }
      }
      sync_warp();
    }
    // Words of multipliers that are not there meet x = 0: another word stands for them.
    int multipliers[kPanelWords];
    TORCHDET_UNROLL
    for (int w = 0; w < kPanelWords; ++w) {
      multipliers[w] = !kSweep || w * kCount < left ? k + w * kCount : k;
    }
    const int groups = kWarpSize / across, begin = (kSweep ? 0 : k + P) + group;
    const bool has_words = group < groups && own < end;
    // One row at a time: the registers that two would take keep other blocks away.
    TORCHDET_ROLL
    for (int i = has_words ? begin : n_; i < n_; i += groups) {
      V* const to = a_ + (kSweep ? i : row_index_[i]) * stride_;
      Chunk<V> c[kTileWords], l[kPanelWords];
      TORCHDET_UNROLL
      for (int w = 0; w < kTileWords; ++w) {
        c[w] = load_shared<Chunk<V>>(to + column[w]);
      }
      TORCHDET_UNROLL
      for (int w = 0; w < kPanelWords; ++w) {
        l[w] = load_shared<Chunk<V>>(to + multipliers[w]);
      }
      TORCHDET_UNROLL
      for (int t = 0; t < P; ++t) {
        TORCHDET_UNROLL
        for (int w = 0; w < kTileWords; ++w) {
          TORCHDET_UNROLL
          for (int e = 0; e < kCount; ++e) {
            c[w].x[e] = fnma(l[t / kCount].x[t % kCount], x[t][w].x[e], c[w].x[e]);
          }
        }
      }
      TORCHDET_UNROLL
      for (int w = 0; w < kTileWords; ++w) {
        if (w == 0 || own + w * across < end) {
          store_shared(to + column[w], c[w]);
        }
      }
    }
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
