// The second derivative of log|det|: -X Z^T X, the derivative of X = A^-T in direction Z, from
// conj(X), which a backward pass computes once for any number of directions.
//
// The products are taken as X (Z^T X): Z^T X does not change where A and Z are scaled alike, nor
// where their rows are.
#pragma once

#include "io.h"
#include "results.h"
#include "triangular.h"
#include "work_space.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// kSlogdetHvp, along Z times the number of_hvp where there is one; one matrix after the other, for
// the classes "rows" and "blocked".
template <typename P>
class RowSlogdetHvp {
 public:
  static void slogdet_hvp(const Problem& p, int64_t begin, int64_t end) {
    using M = RowMatrix<P>;
    const Space space = thread_space<Space>(p.n);
    const M &X = space.X, &Z = space.Z, &ZX = space.ZX;
    for (int64_t b = begin; b < end; ++b) {
      expect_results<P>(p, b, 1);
      read_matrix<0>(p.A, b, X);
      // Z^T is Z with other strides, which large matrices would pay for in every tile.
      const bool stays_in_cache = p.n <= kLargestRows;
      read_matrix<0>(stays_in_cache ? p.other : p.other.transposed(), b, Z);
      if constexpr (kIsComplex<P>) {
        for_packs(X, [](P x) TORCHDET_LANE_LAMBDA { return conj(x); });
      }
      if (p.of_hvp != nullptr) {
        const P factor = broadcast<P>(static_cast<const NumberOf<P>*>(p.of_hvp)[b]);
        for_packs(Z, [factor](P z) TORCHDET_LANE_LAMBDA { return factor * z; });
      }
      if (stays_in_cache) {
        transposed_product(Z, X, ZX);
      } else {
        negative_product(Z, X, ZX);
        for_packs(ZX, [](P x) TORCHDET_LANE_LAMBDA { return -x; });
      }
      negative_product(X, ZX, Z);
      write_rows(Z, result_matrix<P>(p, b));
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
