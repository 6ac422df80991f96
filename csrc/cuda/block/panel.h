// What eliminations in the shared memory of a block share (factor.h, sweep.h): the search for a
// pivot by the warps of a panel, and the passes over the columns outside it.
//
// In a panel of kPanel columns a thread holds a row, or some, in registers. In each step a warp
// shows its best row, with its key and what a quotient by its pivot takes, before it is known which
// warp has the best of all: one barrier a step, and behind it neither a division nor a second
// search. Where one warp has all rows, the barrier is the warp's, and no keys are compared.
//
// Outside the panel a warp owns columns. For the pivot rows Q and columns K of the panel, P A_QK =
// L11 U11, it computes x = L11^-1 A_(Q, j) for its columns j, keeps x in registers, and subtracts
// l_i x from the rows i, which hold their multipliers l_i in the columns K. What a warp reads of x
// it has written itself: no barrier of the block lies between.
#pragma once

#include <bit>
#include <numeric>

#include "../pivot.h"
#include "../place_key.h"
#include "matrix.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// What the threads of a panel show each other.
template <typename V, int P, int kPanelWarps>
struct PanelExchange {
  // The best row of each warp, its key, and what divides by its pivot. Steps take turns: what is
  // read in a step is written again two steps later, behind the barrier of the step between.
  struct alignas(sizeof(Wide)) Proposals {
    V rows[kPanelWarps][P];
    PivotDivisor<V> divisors[kPanelWarps];
    int32_t keys[kPanelWarps];
  };
  Proposals proposals[2];
};
template <typename V, int P, int kPanelWarps>
struct SweepExchange : PanelExchange<V, P, kPanelWarps> {
  // Of two panels in turn: L11 below the diagonal, on it the reciprocals of the pivots.
  alignas(sizeof(Wide)) V factors[2][P][P];
};

// kPanelWarps: those that have rows of a panel, at the most; kLaneRows: the most rows of a thread.
// kSweep: the sweep, else the LU.
template <typename V, int kThreads, int kPanelWarps, int kLaneRows, bool kSweep>
class BlockPanels {
 public:
  using R = RealOf<V>;
  static constexpr bool kIsLarge = !kSweep && kPanelWarps * kLaneRows > 6;
  static constexpr int P = kPanel<V, kIsLarge>;
  static constexpr int kCount = Chunk<V>::kCount, kPanelWords = P / kCount;
  using Exchange = std::conditional_t<kSweep, SweepExchange<V, P, kPanelWarps>,
                                      PanelExchange<V, P, kPanelWarps>>;
  static constexpr int kWarps = kThreads / kWarpSize;

  TORCHDET_DEVICE BlockPanels(TeamMatrix<V> A, int* rows, Exchange& exchange)
      : a_(A.data),
        stride_(A.stride),
        n_(A.n),
        columns_(A.n),
        rows_(rows),
        exchange_(exchange),
        warp_(thread_index() / kWarpSize) {}

  // The thread's share of the sign of the permutation: an odd number of inversions.
  TORCHDET_DEVICE bool is_odd() const { return is_odd_; }

 protected:
  static constexpr uint32_t kMask =
      std::bit_ceil(static_cast<unsigned>(kPanelWarps * kLaneRows * kWarpSize)) - 1;

  // Word w of a panel's part of a row.
  TORCHDET_DEVICE static void load_word(const V* from, int w, V (&x)[P]) {
    const auto chunk = load_shared<Chunk<V>>(from);
    TORCHDET_UNROLL
    for (int e = 0; e < kCount; ++e) {
      x[w * kCount + e] = chunk.x[e];
    }
  }
  template <int kNumbers>
  TORCHDET_DEVICE static void store_word(V* to, int w, const V (&x)[kNumbers]) {
    Chunk<V> chunk;
    TORCHDET_UNROLL
    for (int e = 0; e < kCount; ++e) {
      chunk.x[e] = x[w * kCount + e];
    }
    store_shared(to, chunk);
  }

  // Numbers k .. k + kPanel - 1 of a row. Words that are not there are copies of others.
  TORCHDET_DEVICE void load_row(const V* row, int k, V (&x)[P]) const {
    TORCHDET_UNROLL
    for (int w = 0; w < kPanelWords; ++w) {
      load_word(row + (w == 0 || k + w * kCount < columns_ ? k + w * kCount : k), w, x);
    }
  }
  TORCHDET_DEVICE void store_row(V* row, int k, bool is_present, const V (&x)[P]) const {
    TORCHDET_UNROLL
    for (int w = 0; w < kPanelWords; ++w) {
      if (is_present && k + w * kCount < columns_) {
        store_word(row + k + w * kCount, w, x);
      }
    }
  }

  static constexpr int kPanelBarrier = 1;  // of the warps that factor a panel

  // A key below those of all rows that may be chosen, of each thread another. Its row is kMask, the
  // last that there can be.
  TORCHDET_DEVICE static int32_t key_of_none() {
    static_assert(kMask < 1 << 8);
    return std::numeric_limits<int32_t>::min() + (thread_index() << 8);
  }

  // Of the warps of a panel.
  TORCHDET_DEVICE void sync_panel(int threads) const {
    if constexpr (kPanelWarps == 1) {
      sync_warp();
    } else {
      sync_threads(kPanelBarrier, threads);
    }
  }

  // The row with the largest key, of it the words from column kFirst on, and what divides by the
  // pivot: of the first `threads` threads, which all call this, each with the candidates in column
  // t of its rows m. No two keys of rows that may be chosen are the same.
  template <int kFirst, int kRows>
  TORCHDET_DEVICE int choose(const int32_t (&keys)[kRows], const V (&m)[kRows][P], int t,
                             int threads, V (&u)[P], PivotDivisor<V>& divisor) const {
    auto& proposals = exchange_.proposals[t % 2];
    int32_t key = keys[0];
    V entry = m[0][t];
    TORCHDET_UNROLL
    for (int r = 1; r < kRows; ++r) {
      entry = select(keys[r] > key, m[r][t], entry);
      key = maximum(key, keys[r]);
    }
    const int32_t best = reduce_maximum_in_warp(key);
    Pivot<V, true> candidate(entry);  // the reciprocal is on its way while the rows are stored
    TORCHDET_UNROLL
    for (int r = 0; r < kRows; ++r) {
      if (keys[r] == best) {
        TORCHDET_UNROLL
        for (int w = kFirst / kCount; w < kPanelWords; ++w) {
          store_word(proposals.rows[warp_] + w * kCount, w, m[r]);
        }
      }
    }
    candidate.refine();
    if (key == best) {
      if constexpr (kPanelWarps > 1) {
        proposals.keys[warp_] = best;
      }
      proposals.divisors[warp_] = candidate;
    }
    sync_panel(threads);
    key = best;
    int warp = 0;
    if constexpr (kPanelWarps > 1) {
      constexpr int kKeys = std::gcd(kPanelWarps, 4);
      key = std::numeric_limits<int32_t>::min();
      TORCHDET_UNROLL
      for (int first = 0; first < kPanelWarps; first += kKeys) {
        const auto keys = load_shared<Word<4 * kKeys>>(proposals.keys + first);
        TORCHDET_UNROLL
        for (int w = 0; w < kKeys; ++w) {
          key = maximum(key, static_cast<int32_t>(keys.parts[w]));
        }
      }
      warp = place_of_key<kMask>(key) / kWarpSize % kPanelWarps;
    }
    divisor = proposals.divisors[warp];
    TORCHDET_UNROLL
    for (int w = kFirst / kCount; w < kPanelWords; ++w) {
      load_word(proposals.rows[warp] + w * kCount, w, u);
    }
    return place_of_key<kMask>(key);
  }
  // For the warps that do not call choose(), which are those from `warps` on. A barrier between
  // those that do has to follow.
  TORCHDET_DEVICE void propose_nothing(int warps) const {
    const int w = thread_index();
    if (w >= warps && w < kPanelWarps) {
      exchange_.proposals[0].keys[w] = key_of_none();
      exchange_.proposals[1].keys[w] = key_of_none();
    }
  }

  // x = L11^-1 A_(Q, j) takes the place of A_(Q, j); pivot_row has the rows Q, x_row where their
  // columns j lie. All is loaded before anything is stored, so that nothing waits for a store.
  TORCHDET_DEVICE void solve(int k, const int (&pivot_row)[P], const int (&x_row)[P], int j,
                             V (&x)[P]) {
    const int left = kSweep ? n_ - k : P;
    V l[P][P];
    TORCHDET_UNROLL
    for (int t = 0; t < P; ++t) {
      x[t] = load_shared<V>(a_ + x_row[t] + j);
      TORCHDET_UNROLL
      for (int w = 0; w * kCount < t; ++w) {
        load_word(lower_factor(k, pivot_row, t) + w * kCount, w, l[t]);
      }
    }
    TORCHDET_UNROLL
    for (int t = 0; t < P; ++t) {
      TORCHDET_UNROLL
      for (int s = 0; s < t; ++s) {
        x[t] = fnma(l[t][s], x[s], x[t]);
      }
    }
    TORCHDET_UNROLL
    for (int t = 0; t < P; ++t) {
      if (t < left) {
        store_shared(a_ + x_row[t] + j, x[t]);
      }
    }
  }
  // x_j is of U where column j has had no pivot.
  TORCHDET_DEVICE void note_size(int j, const V (&x)[P], int left, bool is_upper) {
    TORCHDET_UNROLL
    for (int t = 0; t < P; ++t) {
      largest_ = is_upper && j < n_ && t < left ? maximum(largest_, leading_bits(x[t])) : largest_;
    }
  }
  // Where the rows Q begin in A. For those that are not there another stands.
  TORCHDET_DEVICE void find_pivot_rows(int k, int (&pivot_row)[P]) const {
    TORCHDET_UNROLL
    for (int t = 0; t < P; ++t) {
      pivot_row[t] = kSweep ? rows_[t < n_ - k ? k + t : k] * stride_ : rows_[k + t];
    }
  }

  // The passes for panel k, by the warps from first_warp on. Columns from k to `beyond` are left
  // out. kSweep: over all rows, wherever they lie, and the words on both sides; pivot rows are left
  // as x times their reciprocal before their multipliers apply. Else over the rows of the list and
  // the words beyond.
  TORCHDET_DEVICE void update(int k, int beyond, int first_warp) {
    const int before = kSweep ? k / kCount : 0;
    const int end = before + maximum(words_of<V>(columns_) - beyond / kCount, 0);
    // Warps have equal shares, as near as may be: groups have as many lanes as that asks, rounded
    // up to a power of two.
    const int warps = kWarps - first_warp, lane = thread_index() % kWarpSize;
    int log_across = 0;
    TORCHDET_UNROLL
    for (int more = 1; 1 << more <= kMostAcross; ++more) {
      log_across = end > (kTileWords << (more - 1)) * warps ? more : log_across;
    }
    // Eight neighbouring lanes are served at once: 8 / across groups. Where rows are an odd number
    // of words apart, these take rows `across` apart, which lie in different banks where rows are
    // neighbours. At the last orders of a format it is an odd number of half the banks.
    const int across = 1 << log_across, eight = lane / 8;
    const bool is_odd = stride_ / kCount % 2 != 0;
    const int place =
        is_odd ? (eight & (across - 1)) + (lane % 8 & -across) + 8 * (eight >> log_across)
               : lane >> log_across;
    const int begin = (kSweep ? 0 : k + P) + place;
    TORCHDET_ROLL
    for (int first = (warp_ - first_warp) * (kTileWords << log_across); first < end;
         first += warps * (kTileWords << log_across)) {
      update(k, before, beyond / kCount, first, lane, end, log_across, begin);
    }
  }

  V* const a_;
  const int stride_;
  int n_, columns_;  // rows and columns; the same but for a matrix that is not all there yet
  // Of the sweep: the row of each pivot, by its number. Of the LU: all rows, in pivoted order, by
  // where they begin in A.
  int* rows_;
  Exchange& exchange_;
  const int warp_;
  bool is_odd_ = false;
  int32_t largest_ = 0;  // leading bits of the largest number in the thread's share of U

 private:
  // A lane's columns in the passes are kTileWords words, across lanes apart. The lanes of a warp
  // form groups, which take turns at the rows. In a row a group reads and writes its part of the
  // row, and reads kPanel multipliers, which its lanes share. For 64 multiply-adds a lane, 16
  // clocks of an SM, float32 takes
  //     4 + 4 + 4 x 2 wavefronts of shared memory a warp with panels of 16 columns,
  //     2 x 4 + 2 x 4 + 2 x 2 with panels of 8,
  // if two neighbours with one address take half the wavefronts.
  static constexpr int kTileWords = sizeof(V) == 16 ? 4 : P == 16 ? 1 : 2;
  static constexpr int kTileColumns = kTileWords * kCount;
  // As many groups as a lane has columns: each solves for one of them.
  static constexpr int kMostAcross = kWarpSize / kTileColumns;

  // Where the row of a place in the passes begins.
  TORCHDET_DEVICE int offset_of_row(int place) const {
    return kSweep ? place * stride_ : rows_[place];
  }
  // Row t of L11, at least below the diagonal: in the LU where it was made, in the pivot's row.
  TORCHDET_DEVICE const V* lower_factor(int k, const int (&pivot_row)[P], int t) const {
    if constexpr (kSweep) {
      return exchange_.factors[k / P % 2][t];
    } else {
      return a_ + pivot_row[t] + k;
    }
  }

  // Of one strip: the first group's words are those from number `first` on of the words before
  // column k or from word `beyond` on, as far as they are below end. The lane's rows begin at
  // place `begin`.
  TORCHDET_DEVICE void update(int k, int before, int beyond, int first, int lane, int end,
                              int log_across, int begin) {
    const int across = 1 << log_across, group = lane >> log_across;
    const int left = n_ - k, own = first + lane % across;
    const auto column_at = [&](int v) { return (v < before ? v : v - before + beyond) * kCount; };
    int pivot_row[P];
    find_pivot_rows(k, pivot_row);
    // x for one column of the lane's words.
    const int v = own + group / kCount * across, j = column_at(v) + group % kCount;
    const bool is_solver = group < kTileColumns && v < end;
    V solution[P];
    if (is_solver) {
      solve(k, pivot_row, pivot_row, j, solution);
      if constexpr (kSweep) {
        note_size(j, solution, left, j > k);
      }
    }
    sync_warp();
    Chunk<V> x[P][kTileWords];
    V* to[kTileWords];
    TORCHDET_UNROLL
    for (int w = 0; w < kTileWords; ++w) {
      // Where it has no further word, its own once more: no other lane writes what it reads.
      to[w] = a_ + column_at(own + w * across < end ? own + w * across : own < end ? own : first);
      TORCHDET_UNROLL
      for (int t = 0; t < P; ++t) {
        x[t][w] = load_shared<Chunk<V>>(to[w] + pivot_row[t]);
      }
    }
    if constexpr (kSweep) {
      if (left < P) {
        TORCHDET_UNROLL
        for (int t = 0; t < P; ++t) {
          TORCHDET_UNROLL
          for (int w = 0; w < kTileWords; ++w) {
            x[t][w] = t < left ? x[t][w] : Chunk<V>{};
          }
        }
      }
      sync_warp();
      if (is_solver) {
        TORCHDET_UNROLL
        for (int t = 0; t < P; ++t) {
          if (t < left) {
            store_shared(a_ + pivot_row[t] + j, solution[t] * exchange_.factors[k / P % 2][t][t]);
          }
        }
      }
      sync_warp();
    }
    const V* from[kPanelWords];
    // Words of multipliers that are not there meet x = 0: another word stands for them.
    TORCHDET_UNROLL
    for (int w = 0; w < kPanelWords; ++w) {
      from[w] = a_ + (!kSweep || w * kCount < left ? k + w * kCount : k);
    }
    const int groups = kWarpSize >> log_across;
    int i = own < end ? begin : n_;
    // One row at a time: the registers that two would take keep other blocks away. Where the next
    // one is comes along with this one.
    int next = offset_of_row(minimum(i, n_ - 1));
    TORCHDET_ROLL
    for (; i < n_; i += groups) {
      const int row = next;
      next = offset_of_row(minimum(i + groups, n_ - 1));
      Chunk<V> c[kTileWords], l[kPanelWords];
      TORCHDET_UNROLL
      for (int w = 0; w < kTileWords; ++w) {
        c[w] = load_shared<Chunk<V>>(to[w] + row);
      }
      TORCHDET_UNROLL
      for (int w = 0; w < kPanelWords; ++w) {
        l[w] = load_shared<Chunk<V>>(from[w] + row);
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
          store_shared(to[w] + row, c[w]);
        }
      }
    }
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
