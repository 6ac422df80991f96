// The inverse of a matrix in the shared memory of a block, in the place of the matrix itself:
// blocked Gauss-Jordan elimination.
//
// Step k exchanges y_q for x_k in y = B x, q being the row of the pivot: row q then expresses x_k,
// column k the share of y_q. With q_k the row of step k, the last state A of the matrix has
//     (B^-1)_(k, q_j) = A_(q_k, j),   C(B)_(q_j, k) = det(B) A_(q_k, j).               (1)
//
// Steps are taken in panels of kPanel columns K. The pivot rows Q and columns K are L11 U11, and
// x = L11^-1 A_(Q, j) for every column j that is not in K. Then a row i that is not in Q has
// multipliers l_i = A_(i, K) U11^-1, and
//     A_ij <- A_ij - l_i x,   A_(i, K) <- -l_i L11^-1.                                 (2)
// A pivot row s of the panel has multipliers l_st = 0 for t <= s and those of steps t > s, and
//     A_sj <- r_s x_s - sum_t r_s l_st x_t,   r_s = 1 / u_ss,                          (3)
// which is (2) for a row that holds r_s x_s and has the multipliers r_s l_st. So one pass treats
// all rows alike, wherever they lie, and needs no list of rows. In rows that have not been chosen
// it does what an LU does, number by number: equal rows eliminate to exactly 0.
//
// A thread owns a row, and the row's numbers of a panel in its registers: in each step the pivot
// row comes to it through shared memory. A warp owns columns in the passes (2) and (3): x is
// computed by the warp that uses it, stays in its registers, and no barrier of the block lies
// between. n^3 multiply-adds; two barriers for a panel and one for each of its steps.
#pragma once

#include "factor.h"

#include "../pivot.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// What the threads of a block show each other.
template <typename V, int kThreads>
struct SweepExchange {
  static constexpr int P = kPanel<V>, kWarps = kThreads / kWarpSize;
  // The best row of each warp, and its key. Steps take turns: what is read in a step is written
  // again two steps later, behind the barrier of the step between.
  struct alignas(sizeof(Wide)) Proposals {
    V rows[kWarps][P];
    int32_t keys[kWarps];
  };
  Proposals proposals[2];
  alignas(sizeof(Wide)) V factors[P][P];   // L11 and U11, one beside the other
  alignas(sizeof(Wide)) V reciprocals[P];  // r_s
};

template <typename V, int kThreads>
class BlockSweep {
 public:
  using R = RealOf<V>;
  using Exchange = SweepExchange<V, kThreads>;
  static constexpr int P = kPanel<V>, kCount = Chunk<V>::kCount, kPanelWords = P / kCount;
  static constexpr int kWarps = kThreads / kWarpSize;

  TORCHDET_DEVICE BlockSweep(TeamMatrix<V> A, int* row_index, Exchange& exchange)
      : a_(A.data),
        stride_(A.stride),
        n_(A.n),
        row_index_(row_index),
        exchange_(exchange),
        row_(thread_index()),
        warp_(thread_index() / kWarpSize) {
    const int outside = words_of<V>(n_) - kPanelWords;
    const int lane = thread_index() % kWarpSize;
    const int each = (outside + kWarps - 1) / kWarps;  // words of a warp
    across_ = maximum(minimum((each + kTileWords - 1) / kTileWords, kMostAcross), 1);
    groups_ = kWarpSize / across_;
    group_ = lane / across_;
    word_ = lane % across_;
  }

  // A and the list of rows as (1) has them, unless a pivot is zero.
  TORCHDET_DEVICE void run() {
    TORCHDET_ROLL
    for (int k = 0; k < n_ && is_regular_; k += P) {
      factor_panel(k);
      sync_block();
      TORCHDET_ROLL
      for (int first = warp_ * across_ * kTileWords; first < words_outside(k);
           first += kWarps * across_ * kTileWords) {
        update(k, first);
      }
      sync_block();
      store_own(k, panel_);
    }
    sync_block();
  }

  // Whether no pivot is zero.
  TORCHDET_DEVICE bool is_regular() const { return is_regular_; }
  // The thread's share of the sign of the permutation, of which the product counts.
  TORCHDET_DEVICE bool is_odd() const { return is_odd_; }
  // The pivot in the thread's row; 1 where it has none.
  TORCHDET_DEVICE V pivot() const { return pivot_; }
  // The largest leading bits in the thread's share of U.
  TORCHDET_DEVICE int32_t largest() const { return largest_; }

 private:
  // A lane's columns in the passes are kTileWords words; the words of a warp, as many lanes as
  // have different ones, and the lanes' groups, which take turns at the rows. So that warps have
  // equal shares, lanes are divided as the order asks. In a group's row each number of C is read
  // and written, and kPanel multipliers are read, which lanes share: for float32
  //     2 x 4 + 2 x 4 + 2 x 2 wavefronts of shared memory,  64 multiply-adds a lane (16 clocks),
  // if two neighbours with one address take half the wavefronts.
  static constexpr int kTileWords = sizeof(V) == 16 ? 4 : 2;
  static constexpr int kTileColumns = kTileWords * kCount;
  // As many groups as a lane has columns: each solves for one of them.
  static constexpr int kMostAcross = kWarpSize / kTileColumns;
  static constexpr int kAhead = sizeof(V) == 4 ? 4 : 2;  // rows whose numbers are on their way
  static constexpr int kWaiting = -1;
  static constexpr uint32_t kMask = kThreads - 1;
  static_assert(kMask + 1 == kThreads, "a power of two");

  TORCHDET_DEVICE int words_outside(int k) const {
    const int words = words_of<V>(n_);
    return words - minimum(kPanelWords, words - k / kCount);
  }

  // Numbers of the thread's row in the panel.
  TORCHDET_DEVICE void load_own(int k, V (&x)[P]) const {
    TORCHDET_UNROLL
    for (int w = 0; w < kPanelWords; ++w) {
      Chunk<V> chunk;
      if (row_ < n_ && k + w * kCount < n_) {
        chunk = load_shared<Chunk<V>>(a_ + row_ * stride_ + k + w * kCount);
      }
      TORCHDET_UNROLL
      for (int e = 0; e < kCount; ++e) {
        x[w * kCount + e] = row_ < n_ && k + w * kCount < n_ ? chunk.x[e] : zero<V>();
      }
    }
  }
  TORCHDET_DEVICE void store_own(int k, const V (&x)[P]) const {
    TORCHDET_UNROLL
    for (int w = 0; w < kPanelWords; ++w) {
      if (row_ < n_ && k + w * kCount < n_) {
        store_words(a_ + row_ * stride_ + k, w, x);
      }
    }
  }
  TORCHDET_DEVICE static void store_words(V* to, int w, const V (&x)[P]) {
    Chunk<V> chunk;
    TORCHDET_UNROLL
    for (int e = 0; e < kCount; ++e) {
      chunk.x[e] = x[w * kCount + e];
    }
    store_shared(to + w * kCount, chunk);
  }

  // The steps of a panel in its own columns. The multipliers go to the columns of the panel, which
  // the passes read; A_(i, K) of (2), which takes their place afterwards, waits in panel_.
  TORCHDET_DEVICE void factor_panel(int k) {
    const int left = n_ - k;
    V(&m)[P] = panel_;
    V l[P];
    load_own(k, m);
    for_steps<0, P, true>([&](auto step) {
      constexpr int t = decltype(step)::value;
      l[t] = zero<V>();
      if (t < left) {
        const bool is_waiting = place_ == kWaiting && row_ < n_;
        V u[P];
        const int q = choose(is_waiting ? pivot_key<kMask>(pivot_size(m[t]), row_) : ~row_, m,
                             exchange_.proposals[t % 2], u);
        const bool is_row = row_ == q;
        const Pivot<V> pivot(u[t]);
        is_regular_ = is_regular_ && !pivot.is_zero;
        is_odd_ = is_odd_ != (is_waiting && row_ < q);
        if (is_row) {
          place_ = k + t;
          pivot_ = u[t];
          row_index_[k + t] = row_;
          exchange_.reciprocals[t] = pivot.quotient(one<V>());
          V factors[P];
          TORCHDET_UNROLL
          for (int c = 0; c < P; ++c) {
            factors[c] = c < t ? l[c] : m[c];
            largest_ = c < t ? largest_ : maximum(largest_, leading_bits(m[c]));
          }
          TORCHDET_UNROLL
          for (int w = 0; w < kPanelWords; ++w) {
            store_words(exchange_.factors[t], w, factors);
          }
        }
        l[t] = select(is_row, zero<V>(), pivot.quotient(m[t]));
        TORCHDET_UNROLL
        for (int c = 0; c < P; ++c) {
          if (c != t) {
            m[c] = fnma(l[t], u[c], m[c]);
          }
        }
        m[t] = select(is_row, one<V>(), -l[t]);
      }
    });
    if (place_ >= k) {
      const V r = exchange_.reciprocals[place_ - k];  // which this thread has written
      TORCHDET_UNROLL
      for (int t = 0; t < P; ++t) {
        l[t] = t > place_ - k ? l[t] * r : zero<V>();
        m[t] = m[t] * r;
      }
    }
    store_own(k, l);
  }

  // The row with the largest key of all threads, and its numbers in the panel. Each warp shows its
  // best row beside the key before the barrier: the row need not be asked for when it is known.
  TORCHDET_DEVICE int choose(int32_t key, const V (&m)[P], typename Exchange::Proposals& proposals,
                             V (&u)[P]) const {
    if (key == reduce_maximum_in_warp(key)) {  // no two threads have the same
      proposals.keys[warp_] = key;
      TORCHDET_UNROLL
      for (int w = 0; w < kPanelWords; ++w) {
        store_words(proposals.rows[warp_], w, m);
      }
    }
    sync_block();
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

  // (2) and (3) in the warp's words of those outside the panel, from number `first` on. No other
  // warp reads or writes them.
  TORCHDET_DEVICE void update(int k, int first) {
    const int left = n_ - k, end = words_outside(k);
    int row_offset[P];  // of the pivot rows
    TORCHDET_UNROLL
    for (int t = 0; t < P; ++t) {
      row_offset[t] = row_index_[t < left ? k + t : k] * stride_;
    }
    const auto word_at = [&](int v) { return v < k / kCount ? v : v + kPanelWords; };

    // A column of the lane's words.
    const int own = first + word_ + group_ / kCount * across_;
    const int j = word_at(own) * kCount + group_ % kCount;
    const bool is_solver = group_ < kTileColumns && own < end;
    V solution[P];
    if (is_solver) {
      for_steps<0, P, true>([&](auto step) {
        constexpr int t = decltype(step)::value;
        solution[t] = zero<V>();
        if (t < left) {
          V x = load_shared<V>(a_ + row_offset[t] + j);
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
          store_shared(a_ + row_offset[t] + j, x);
          largest_ = j > k && j < n_ ? maximum(largest_, leading_bits(x)) : largest_;
        }
      });
    }
    sync_warp();
    Chunk<V> x[P][kTileWords];
    int offset[kTileWords];
    TORCHDET_UNROLL
    for (int w = 0; w < kTileWords; ++w) {
      const int v = first + word_ + w * across_;
      offset[w] = word_at(v < end ? v : first) * kCount;
      TORCHDET_UNROLL
      for (int t = 0; t < P; ++t) {
        x[t][w] = load_shared<Chunk<V>>(a_ + row_offset[t] + offset[w]);
      }
    }
    sync_warp();
    if (is_solver) {
      TORCHDET_UNROLL
      for (int t = 0; t < P; ++t) {
        if (t < left) {
          store_shared(a_ + row_offset[t] + j, solution[t] * exchange_.reciprocals[t]);
        }
      }
    }
    sync_warp();
    const bool has_words = group_ < groups_ && first + word_ < end;
    TORCHDET_ROLL
    for (int i = has_words ? group_ : n_; i < n_; i += kAhead * groups_) {
      TORCHDET_UNROLL
      for (int r = 0; r < kAhead; ++r) {
        if (i + r * groups_ < n_) {
          V* const to = a_ + (i + r * groups_) * stride_;
          Chunk<V> c[kTileWords];
          TORCHDET_UNROLL
          for (int w = 0; w < kTileWords; ++w) {
            c[w] = load_shared<Chunk<V>>(to + offset[w]);
          }
          TORCHDET_UNROLL
          for (int v = 0; v < kPanelWords; ++v) {
            if (v * kCount < left) {
              const auto l = load_shared<Chunk<V>>(to + k + v * kCount);
              TORCHDET_UNROLL
              for (int e = 0; e < kCount; ++e) {
                TORCHDET_UNROLL
                for (int w = 0; w < kTileWords; ++w) {
                  TORCHDET_UNROLL
                  for (int f = 0; f < kCount; ++f) {
                    c[w].x[f] = fnma(l.x[e], x[v * kCount + e][w].x[f], c[w].x[f]);
                  }
                }
              }
            }
          }
          TORCHDET_UNROLL
          for (int w = 0; w < kTileWords; ++w) {
            if (w == 0 || first + word_ + w * across_ < end) {
              store_shared(to + offset[w], c[w]);
            }
          }
        }
      }
    }
  }

  V* const a_;
  const int stride_, n_;
  int* const row_index_;
  Exchange& exchange_;
  const int row_, warp_;
  int across_, groups_, group_, word_;
  int place_ = kWaiting;  // the step whose pivot row is the thread's
  bool is_regular_ = true, is_odd_ = false;
  V pivot_ = one<V>();
  int32_t largest_ = 0;
  V panel_[P];
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
