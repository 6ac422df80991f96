// The cofactors of the class "block", from P B = L U of block/factor.h.
//
// With p(c) the place of row c of B in pivoted order, B^-1 e_c = U^-1 L^-1 e_p(c). So row c of
// C(B) = det(B) B^-T is row p(c) of
//     det(B) Z,   Z = L^-T U^-T,   that is  U^T W = I,  L^T Z = W,
// and results are read and written along rows. W, a lower triangle, takes n^3 / 6 multiply-adds and
// Z n^3 / 2, panel by panel: a thread for each column of the panel's rows, then a product of kPanel
// rows in tiles of registers, as in the factorisation.
#pragma once

#include "factor.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename V, int kRows, int kThreads>
class BlockInverse {
 public:
  using R = RealOf<V>;
  using Matrix = BlockFactors<V, kRows, kThreads>;
  static constexpr int P = kPanel<V>, kCount = Chunk<V>::kCount;
  static constexpr int kPanelWords = Matrix::kPanelWords;
  static constexpr int kTileRows = Matrix::kTileRows, kTileWords = Matrix::kTileWords;

  TORCHDET_DEVICE BlockInverse(const Matrix& matrix, const BlockSpace<V, kThreads>& space)
      : matrix_(matrix), s_(space), z_(space.X.data), stride_(space.X.stride), n_(space.A.n) {}

  // X <- Z; no pivot is zero.
  TORCHDET_DEVICE void compute() {
    const int words = words_of<V>(n_);
    Chunk<V> nothing;
    TORCHDET_UNROLL
    for (int e = 0; e < kCount; ++e) {
      nothing.x[e] = zero<V>();
    }
    for (int t = thread_index(); t < n_ * (stride_ / kCount); t += kThreads) {
      nothing.store(z_ + t * kCount);
    }
    prepare_quotients(0);
    sync_block();
    for (int i = thread_index(); i < n_; i += kThreads) {
      z_[i * stride_ + i] = one<V>();
    }
    sync_block();
    for (int k = 0; k < n_; k += P) {
      solve_upper(k);
      sync_block();
      if (k + P < n_) {
        prepare_quotients(k + P);
        update(k, P, k + P, n_, (k + P) / kCount);
        sync_block();
      }
    }
    for (int k = (n_ - 1) / P * P; k >= 0; k -= P) {
      solve_lower(k);
      sync_block();
      if (k > 0) {
        update(k, n_ - k, 0, k, words);
        sync_block();
      }
    }
  }

 private:
  TORCHDET_DEVICE void prepare_quotients(int k) {
    const int t = thread_index();
    if (t < P && k + t < n_) {
      s_.quotients[t] = PivotQuotient<V>(matrix_.row(k + t)[k + t]);
    }
  }

  // Numbers t of a row of the panel k.
  TORCHDET_DEVICE void load_row(int k, int t, V (&x)[P]) const {
    const V* const from = matrix_.row(k + t) + k;
    TORCHDET_UNROLL
    for (int w = 0; w < kPanelWords; ++w) {
      if (k + w * kCount < n_) {
        const Chunk<V> chunk = Chunk<V>::load(from + w * kCount);
        TORCHDET_UNROLL
        for (int e = 0; e < kCount; ++e) {
          x[w * kCount + e] = chunk.x[e];
        }
      }
    }
  }

  // U11^T w = x for the panel's rows, columns up to the diagonal.
  TORCHDET_DEVICE void solve_upper(int k) {
    const int left = n_ - k;
    for (int j = thread_index(); j < (left < P ? n_ : k + P); j += kThreads) {
      V x[P] = {zero<V>()}, u[P] = {zero<V>()};
      TORCHDET_UNROLL
      for (int t = 0; t < P; ++t) {
        x[t] = t < left ? z_[(k + t) * stride_ + j] : zero<V>();
      }
      TORCHDET_UNROLL
      for (int s = 0; s < P; ++s) {
        if (s < left) {
          load_row(k, s, u);
          x[s] = s_.quotients[s](x[s]);
          z_[(k + s) * stride_ + j] = x[s];
          TORCHDET_UNROLL
          for (int t = 0; t < P; ++t) {
            if (t > s) {
              x[t] = fnma(u[t], x[s], x[t]);
            }
          }
        }
      }
    }
  }

  // L11^T z = x for the panel's rows.
  TORCHDET_DEVICE void solve_lower(int k) {
    const int left = n_ - k;
    for (int j = thread_index(); j < n_; j += kThreads) {
      V x[P] = {zero<V>()}, l[P] = {zero<V>()};
      TORCHDET_UNROLL
      for (int t = 0; t < P; ++t) {
        x[t] = t < left ? z_[(k + t) * stride_ + j] : zero<V>();
      }
      TORCHDET_UNROLL
      for (int step = 0; step < P; ++step) {
        const int s = P - 1 - step;
        if (s < left) {
          load_row(k, s, l);
          z_[(k + s) * stride_ + j] = x[s];
          TORCHDET_UNROLL
          for (int t = 0; t < P; ++t) {
            if (t < s) {
              x[t] = fnma(l[t], x[s], x[t]);
            }
          }
        }
      }
    }
  }

  // Rows i of X in [begin, end) lose the sums over the panel's rows t of a_ti x_t, for the first
  // `words` words of each; count: rows of the panel, or more.
  TORCHDET_DEVICE void update(int k, int count, int begin, int end, int words) {
    static_assert(kTileRows % kCount == 0 && P % kTileRows == 0);
    Matrix::for_tiles(begin, end, 0, words, [&](int i, int first_word) {
      V* const to = z_ + i * stride_;
      Chunk<V> c[kTileRows][kTileWords];
      TORCHDET_UNROLL
      for (int r = 0; r < kTileRows; ++r) {
        TORCHDET_UNROLL
        for (int w = 0; w < kTileWords; ++w) {
          const int word = first_word + w * Matrix::kWarpColumns;
          if (i + r < end && (w == 0 || word < words)) {
            c[r][w] = Chunk<V>::load(to + r * stride_ + word * kCount);
          }
        }
      }
      TORCHDET_UNROLL
      for (int t = 0; t < P; ++t) {
        if (t < count) {
          const V* const coefficients = matrix_.row(k + t) + i;
          Chunk<V> a[kTileRows / kCount];
          TORCHDET_UNROLL
          for (int v = 0; v < kTileRows / kCount; ++v) {
            if (i + v * kCount < n_) {
              a[v] = Chunk<V>::load(coefficients + v * kCount);
            }
          }
          TORCHDET_UNROLL
          for (int w = 0; w < kTileWords; ++w) {
            const int word = first_word + w * Matrix::kWarpColumns;
            if (w == 0 || word < words) {
              const Chunk<V> x = Chunk<V>::load(z_ + (k + t) * stride_ + word * kCount);
              TORCHDET_UNROLL
              for (int r = 0; r < kTileRows; ++r) {
                TORCHDET_UNROLL
                for (int e = 0; e < kCount; ++e) {
                  c[r][w].x[e] = fnma(a[r / kCount].x[r % kCount], x.x[e], c[r][w].x[e]);
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
          const int word = first_word + w * Matrix::kWarpColumns;
          if (i + r < end && (w == 0 || word < words)) {
            c[r][w].store(to + r * stride_ + word * kCount);
          }
        }
      }
    });
  }

  const Matrix& matrix_;
  const BlockSpace<V, kThreads>& s_;
  V* const z_;
  const int stride_, n_;
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
