// The second derivative of log|det|: -X Z^T X, the derivative of X = A^-T in direction Z, from
// conj(X), which a backward pass computes once for any number of directions.
//
// The products are taken as X (Z^T X): Z^T X does not change where A and Z are scaled alike, nor
// where their rows are.
#pragma once

#include "arena.h"
#include "lane_kernels.h"
#include "lane_product.h"
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

// kSlogdetHvp, one matrix and one direction per SIMD lane. One kernel serves all orders.
template <typename V>
struct LaneSlogdetHvp {
  static constexpr int W = LaneTraits<V>::kWidth;

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
      LaneProduct<V>::multiply(z, n, x, n, zx);
      LaneProduct<V>::template multiply<true>(x, n, zx, n, z);
      Tile<V>::write_whole(p.out, first, lanes, n, z);
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
