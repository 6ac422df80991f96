// Kernels of the class "cluster": one matrix per cluster of blocks, in their shared memory.
//
// det and slogdet: P B = L U by panels, right-looking. A panel is factored by the block that owns
// its columns, without a word from the others, which fetch its multipliers and solve and update
// their own columns. The block that owns the next panel brings those columns up to date before all
// others and factors them while the others still update; what it owes, it does while they fetch. So
// the pivots, one after the other, are what takes the time. One barrier of the cluster for each
// panel, arrived at when a panel is there and waited for before it is fetched.
#pragma once

#include "panel.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename V, int kClusterSize_>
class ClusterFactors : public ClusterPanels<V, kClusterSize_> {
 public:
  using Base = ClusterPanels<V, kClusterSize_>;
  using I = IntegerOf<V>;
  using Base::Base, Base::kClusterSize, Base::kCount, Base::kThreads, Base::kWarps, Base::P,
      Base::multipliers;

  // det(B) times 2^own_exponent of every block, in the first thread of the first block.
  TORCHDET_DEVICE Scaled<V> factor_all(I own_exponent) {
    Base::determinant_.exponent = own_exponent;
    // Two halves for each panel, each with columns to eliminate from: one place in the code.
    TORCHDET_ROLL
    for (int half = 0;; ++half) {
      const int k = half / 2;
      const bool is_owner = k % kClusterSize == rank_;
      // The columns of this block behind panel `of` begin at word `first`.
      int of = k, first, last = words_;
      if (half % 2 == 0) {
        if (is_owner) {
          Base::factor(k);
        }
        arrive_cluster();
        if (is_owner) {
          Base::multiply(k);
        }
        of = k - 1;
        first = is_owner && k > 0 ? (k / kClusterSize + 1) * kPanelWords : last;
      } else {
        wait_cluster();
        if (k + 1 == layout_.panels) {
          return product_of_blocks();
        }
        if (!is_owner) {
          fetch(k);
        }
        first = (k - rank_ + kClusterSize) / kClusterSize * kPanelWords;
        const bool is_next_owner = (k + 1) % kClusterSize == rank_;
        last = is_next_owner ? minimum(first + kPanelWords, last) : last;
      }
      eliminate(of, first, last);
    }
  }

 private:
  static constexpr int kPanelWords = kClusterPanelWords;
  static constexpr int kTileRows = 4, kTileWords = 2;  // of a thread, in an update
  using Base::layout_, Base::n_, Base::stride_, Base::a_, Base::row_index_, Base::rank_,
      Base::words_;

  TORCHDET_DEVICE Scaled<V> product_of_blocks() {
    Scaled<V>* const own = Base::template at<Scaled<V>>(layout_.determinant);
    if (thread_index() == 0) {
      *own = Base::determinant_;
    }
    sync_cluster();
    Scaled<V> product = Base::determinant_;
    if (rank_ == 0 && thread_index() == 0) {
      for (int r = 1; r < kClusterSize; ++r) {
        product = product * *map_shared(own, r);
      }
    }
    sync_cluster();
    return product;
  }

  // Multipliers and order of the rows from the owner of panel k, which factors its next panel into
  // other memory: what is fetched here is written again only behind the next barrier. The order
  // before this panel lists the same rows from here on; it gives way when nobody needs it.
  TORCHDET_DEVICE void fetch(int k) {
    const int owner = k % kClusterSize, first = k * P, place = first + thread_index();
    const V* const from = map_shared(multipliers(k), owner);
    int index = 0;
    if (place < n_) {
      index = *map_shared(row_index_ + place, owner);
    }
    for (int t = thread_index(); t < (n_ - first) * kPanelWords; t += kThreads) {
      const int offset = row_index_[first + t / kPanelWords] * P + t % kPanelWords * kCount;
      Chunk<V>::load_elsewhere(from + offset).store(multipliers(k) + offset);
    }
    sync_block();
    if (place < n_) {
      row_index_[place] = index;
    }
    sync_block();
  }

  // The words [first, last) of each row lose what panel k takes from them.
  TORCHDET_DEVICE void eliminate(int k, int first, int last) {
    if (first < last) {
      solve(k, first * kCount, last * kCount);
      sync_block();
      update(k, first, last);
      sync_block();
    }
  }

  // The rows of U: L11 u = a, a thread for each column. Every number is a chain of multiply-adds in
  // the order of the pivots, as in update(): rows that are equal stay equal to the last bit.
  TORCHDET_DEVICE void solve(int k, int first, int last) {
    const V* const multipliers_of_panel = multipliers(k);
    for (int j = first + thread_index(); j < last; j += kThreads) {
      V u[P];
      int row[P];
      TORCHDET_UNROLL
      for (int t = 0; t < P; ++t) {
        row[t] = row_index_[k * P + t];
        u[t] = a_[row[t] * stride_ + j];
      }
      TORCHDET_UNROLL
      for (int w = 0; w < kPanelWords; ++w) {
        TORCHDET_UNROLL
        for (int t = w * kCount + 1; t < P; ++t) {
          const Chunk<V> l = Chunk<V>::load(multipliers_of_panel + row[t] * P + w * kCount);
          TORCHDET_UNROLL
          for (int e = 0; e < kCount; ++e) {
            if (w * kCount + e < t) {
              u[t] = fnma(l.x[e], u[w * kCount + e], u[t]);
            }
          }
        }
      }
      TORCHDET_UNROLL
      for (int t = 1; t < P; ++t) {
        a_[row[t] * stride_ + j] = u[t];
      }
    }
  }

  // The rows below lose L21 U12, in tiles.
  TORCHDET_DEVICE void update(int k, int first, int last) {
    // Threads of a warp side by side, to read neighbouring words of one row: as many as there are
    // words in a panel, or twice that.
    const int columns = last - first <= kPanelWords ? kPanelWords : 2 * kPanelWords;
    const int high = kWarpSize / columns * kTileRows, wide = columns * kTileWords;
    const int lane = thread_index() % kWarpSize, begin = (k + 1) * P;
    const int right = quotient_up(last - first, wide);
    const int tiles = quotient_up(n_ - begin, high) * right;
    TORCHDET_ROLL
    for (int tile = thread_index() / kWarpSize; tile < tiles; tile += kWarps) {
      const int place = begin + tile / right * high + lane / columns * kTileRows;
      const int begin_of_tile = first + tile % right * wide, word = begin_of_tile + lane % columns;
      if (place < n_ && word < last) {
        if (begin_of_tile + columns < last) {
          update_tile<kTileWords>(k, place, word, columns, last);
        } else {
          update_tile<1>(k, place, word, columns, last);
        }
      }
    }
  }
  // kWords words of a few rows, `columns` apart, as many of them as lie before last_word.
  template <int kWords>
  TORCHDET_DEVICE void update_tile(int k, int place, int first_word, int columns, int last_word) {
    const V* const multipliers_of_panel = multipliers(k);
    int c_row[kTileRows], l_row[kTileRows];
    Chunk<V> c[kTileRows][kWords];
    bool is_there[kWords];
    int offset[kWords];
    TORCHDET_UNROLL
    for (int w = 0; w < kWords; ++w) {
      const int word = first_word + w * columns;
      is_there[w] = w == 0 || word < last_word;
      offset[w] = (is_there[w] ? word : first_word) * kCount;  // else the first once more, unused
    }
    TORCHDET_UNROLL
    for (int r = 0; r < kTileRows; ++r) {
      const int row = row_index_[place + r < n_ ? place + r : place];
      c_row[r] = row * stride_;
      l_row[r] = row * P;
      TORCHDET_UNROLL
      for (int w = 0; w < kWords; ++w) {
        c[r][w] = Chunk<V>::load(a_ + (c_row[r] + offset[w]));
      }
    }
    const int* const pivots = row_index_ + k * P;
    TORCHDET_ROLL
    for (int v = 0; v < kPanelWords; ++v) {
      Chunk<V> l[kTileRows];
      TORCHDET_UNROLL
      for (int r = 0; r < kTileRows; ++r) {
        l[r] = Chunk<V>::load(multipliers_of_panel + (l_row[r] + v * kCount));
      }
      TORCHDET_UNROLL
      for (int e = 0; e < kCount; ++e) {
        const int pivot_row = pivots[v * kCount + e] * stride_;
        TORCHDET_UNROLL
        for (int w = 0; w < kWords; ++w) {
          const Chunk<V> u = Chunk<V>::load(a_ + (pivot_row + offset[w]));
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
    TORCHDET_UNROLL
    for (int r = 0; r < kTileRows; ++r) {
      TORCHDET_UNROLL
      for (int w = 0; w < kWords; ++w) {
        if (place + r < n_ && is_there[w]) {
          c[r][w].store(a_ + (c_row[r] + offset[w]));
        }
      }
    }
  }
};

// kDet and kSlogdet.
template <typename V, int kClusterSize_>
struct ClusterDeterminants {
  using Matrix = ClusterFactors<V, kClusterSize_>;
  static constexpr Memory kMemory = Memory::kShared;
  static constexpr int kClusterSize = kClusterSize_;
  static constexpr int kThreads = Matrix::kThreads, kBlocksPerSm = 1;
  static constexpr int64_t kMatricesPerBlock = 1;
  static_assert(kThreads <= static_cast<int>(kClusterPlaces) + 1);

  static size_t block_bytes(int64_t n) {
    return n > Matrix::kLargestOrder
               ? std::numeric_limits<size_t>::max()
               : typename Matrix::Layout(static_cast<int>(n), Matrix::kRowWarps).bytes;
  }

  TORCHDET_DEVICE static void run(const Problem& p) {
    if constexpr (kHasClusters) {
      const int64_t b = block_index() / kClusterSize;
      Matrix matrix(static_cast<int>(p.n));
      const Equilibration<V> eq = matrix.read(p.A, b);
      Scaled<V> d = matrix.factor_all(eq.total);
      if (cluster_rank() == 0 && thread_index() == 0) {
        d.mantissa = add_poison(d.mantissa, eq.poison);
        write_determinant(p, b, d);
      }
    }
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
