// The second derivative of log|det|, -X Z^T X with X = A^-T (matrix/slogdet_hvp.h), in lanes.
#pragma once

#include "kernels.h"
#include "product.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// kSlogdetHvp, along Z times the number of_hvp where there is one; one matrix and one direction per
// SIMD lane. kOrder is the order of the matrices, or 0 for any order.
template <typename V, int kOrder>
struct LaneSlogdetHvp {
  static constexpr int W = LaneTraits<V>::kWidth;

  static void slogdet_hvp(const Problem& p, int64_t begin, int64_t end) {
    using Product = LaneProduct<V>;
    constexpr int kSize = tile_size(kOrder > 0 ? kOrder : kMaxLaneOrder);
    const int n = kOrder > 0 ? kOrder : static_cast<int>(p.n);
    BatchView factors;
    factors.data = p.of_hvp;
    factors.append(p.batch, 1);
    V x[kSize], z[kSize], zx[kSize];
    for (int64_t first = begin; first < end; first += W) {
      const int lanes = static_cast<int>(std::min<int64_t>(W, end - first));
      Tile<V>::read(p.A, first, lanes, n, x);
      Tile<V>::read(p.other, first, lanes, n, z);
      Tile<V>::expect_whole(p.out, first + W, n);
      if constexpr (kIsComplex<V>) {
        for (int k = 0; k < tile_size(n); ++k) {
          x[k] = conj(x[k]);
        }
      }
      if (p.of_hvp != nullptr) {
        const V factor = Tile<V>::read_numbers(factors, first, lanes);
        for (int k = 0; k < tile_size(n); ++k) {
          z[k] = factor * z[k];
        }
      }
      if constexpr (kOrder > 0) {
        Product::template multiply_inline<false, true>(z, n, x, n, zx);
        Product::template multiply_inline<true>(x, n, zx, n, z);
      } else {
        Product::template multiply<false, true>(z, n, x, n, zx);
        Product::template multiply<true>(x, n, zx, n, z);
      }
      Tile<V>::write_whole(p.out, first, lanes, n, z);
    }
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
