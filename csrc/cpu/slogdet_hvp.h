// The second derivative of log|det|: -X Z^T X, the derivative of X = A^-T in direction Z, from
// conj(X), which a backward pass computes once for any number of directions.
//
// The products are taken as X (Z^T X): Z^T X does not change where A and Z are scaled alike, nor
// where their rows are.
#pragma once

#include "arena.h"
#include "lane_kernels.h"
#include "results.h"
#include "row_io.h"
#include "row_triangular.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

inline BatchView transposed(const BatchView& matrices) {
  BatchView view = matrices;
  std::swap(view.row_stride, view.column_stride);
  return view;
}

// kSlogdetHvp, one matrix and one direction per SIMD lane. One kernel serves all orders: the
// products are sums of kRows x kColumns entries in registers, and no loop is unrolled for an order.
template <typename V>
struct LaneSlogdetHvp {
  static constexpr int W = LaneTraits<V>::kWidth;
  static constexpr int kRows = 2, kColumns = kIsComplex<V> ? 2 : 4;

  static void slogdet_hvp(const Problem& p, int64_t begin, int64_t end) {
    const int n = static_cast<int>(p.n);
    const BatchView Z = transposed(p.other);
    V x[tile_size(kMaxLaneOrder)], z[tile_size(kMaxLaneOrder)], zx[tile_size(kMaxLaneOrder)];
    for (int64_t first = begin; first < end; first += W) {
      const int lanes = static_cast<int>(std::min<int64_t>(W, end - first));
      Tile<V>::read(p.A, first, lanes, n, x);
      Tile<V>::read(Z, first, lanes, n, z);
      Tile<V>::expect_whole(p.out, first + W, n);
      if constexpr (kIsComplex<V>) {
        for (int k = 0; k < tile_size(n); ++k) {
          x[k] = conj(x[k]);
        }
      }
      multiply<false>(z, x, n, zx);
      multiply<true>(x, zx, n, z);
      Tile<V>::write_whole(p.out, first, lanes, n, z);
    }
  }

 private:
  // to = a b, or -a b.
  template <bool kNegative>
  [[gnu::noinline]] static void multiply(const V* a, const V* b, int n, V* to) {
    const int s = tile_stride(n);
    for (int i = 0; i < n; i += kRows) {
      const int rows = std::min(kRows, n - i);
      for (int j = 0; j < n; j += kColumns) {
        multiply_block<kRows, kColumns, kNegative>(rows, std::min(kColumns, n - j), a + i * s,
                                                   b + j, n, to + i * s + j);
      }
    }
  }
  template <int NR, int NC, bool kNegative>
  TORCHDET_LANE static void multiply_block(int rows, int columns, const V* a, const V* b, int n,
                                           V* to) {
    if (NR > 1 && rows < NR) {
      multiply_block<std::max(NR - 1, 1), NC, kNegative>(rows, columns, a, b, n, to);
      return;
    }
    if (NC > 1 && columns < NC) {
      multiply_block<NR, std::max(NC - 1, 1), kNegative>(rows, columns, a, b, n, to);
      return;
    }
    const int s = tile_stride(n);
    V sum[NR][NC];
    for (auto& row : sum) {
      std::fill(row, row + NC, zero<V>());
    }
    for (int k = 0; k < n; ++k) {
      for (int i = 0; i < NR; ++i) {
        for (int j = 0; j < NC; ++j) {
          const V f = a[i * s + k], x = b[k * s + j];
          sum[i][j] = kNegative ? fnma(f, x, sum[i][j]) : fma(f, x, sum[i][j]);
        }
      }
    }
    for (int i = 0; i < NR; ++i) {
      std::copy(sum[i], sum[i] + NC, to + i * s);
    }
  }
};

// The same for one matrix after the other, their rows in packs.
template <typename P>
class RowSlogdetHvp {
 public:
  static void slogdet_hvp(const Problem& p, int64_t begin, int64_t end) {
    using M = RowMatrix<P>;
    const Space space = thread_space<Space>(p.n);
    const M &X = space.X, &Z = space.Z, &ZX = space.ZX;
    for (int64_t b = begin; b < end; ++b) {
      read_matrix<0>(p.A, b, X);
      read_matrix<0>(transposed(p.other), b, Z);
      if constexpr (kIsComplex<P>) {
        for_packs(X, [](P x) TORCHDET_LANE_LAMBDA { return conj(x); });
      }
      negative_product(Z, X, ZX);
      for_packs(ZX, [](P x) TORCHDET_LANE_LAMBDA { return -x; });
      negative_product(X, ZX, Z);
      NumberOf<P>* const out = result_matrix<P>(p, b);
      for (int64_t i = 0; i < p.n; ++i) {
        for (int64_t v = 0; v < Z.packs; ++v) {
          store_numbers(reinterpret_cast<ScalarOf<P>*>(out + i * p.n + v * M::W), Z.row(i)[v],
                        p.n - v * M::W);
        }
      }
    }
  }

 private:
  struct Space {
    RowMatrix<P> X, Z, ZX;
    Space(int64_t n, Arena& arena)
        : X(take_matrix<P>(n, arena)), Z(take_matrix<P>(n, arena)), ZX(take_matrix<P>(n, arena)) {}
  };

  template <typename Function>
  TORCHDET_LANE static void for_packs(const RowMatrix<P>& X, Function f) {
    for (int64_t i = 0; i < X.n; ++i) {
      for (int64_t v = 0; v < X.packs; ++v) {
        X.row(i)[v] = f(X.row(i)[v]);
      }
    }
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
