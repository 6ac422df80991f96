// Products and triangular systems of one matrix whose rows lie in packs, by blocks that stay in the
// cache.
#pragma once

#include "../../select.h"
#include "parallel.h"
#include "product.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

template <typename P>
TORCHDET_LANE const ScalarOf<P>* factor_at(const RowMatrix<P>& F, int64_t i, int64_t k) {
  return reinterpret_cast<const ScalarOf<P>*>(F.row(i)) + offset_of<P>(k);
}

// X_i -= sum_k F(i, k) Y_k for rows i and k and the packs of the ranges.
template <typename P>
void subtract_products(const RowMatrix<P>& X, const RowMatrix<P>& F, const RowMatrix<P>& Y,
                       Range rows, Range inner, Range packs) {
  const bool fetch_ahead = X.n * X.packs * static_cast<int64_t>(sizeof(P)) >= kLeastFetchedAhead;
  for (int64_t first = inner.begin; first < inner.end; first += kProductDepth) {
    const int64_t count = std::min(kProductDepth, inner.end - first);
    for_product_tiles<P>(packs.size(), [&](int64_t pack, int64_t width) {
      const int64_t p = packs.begin + pack;
      const P* const from = Y.row(first) + p;
      P strip[kProductDepth * kProductPacks<P>];
      for (int64_t k = 0; k < count; ++k) {  // on a few pages, line by line
        std::copy(from + k * Y.stride, from + k * Y.stride + width, strip + k * width);
      }
      subtract_rows<P, kProductPacks<P>>(
          rows.size(), width, [&](int64_t m) { return X.row(rows.begin + m) + p; },
          [&](int64_t m) { return factor_at(F, rows.begin + m, first); }, kAlongRow, first % X.W,
          strip, width, count, fetch_ahead);
    });
  }
}

// X = -F Y. Out of line, as it is most of the code where rows are of known length.
template <typename P>
[[gnu::noinline]] void negative_product(const RowMatrix<P>& F, const RowMatrix<P>& Y,
                                        const RowMatrix<P>& X) {
  if (X.n > kLargestRows) {
    X.clear();
    subtract_products(X, F, Y, {0, X.n}, {0, X.n}, {0, X.packs});
    return;
  }
  for_product_tiles<P>(X.packs, [&](int64_t p, int64_t width) TORCHDET_LANE_LAMBDA {
    subtract_rows<P, kProductPacks<P>, /*kFromZero=*/true>(
        X.n, width, [&](int64_t i) { return X.row(i) + p; },
        [&](int64_t i) { return factor_at(F, i, 0); }, kAlongRow, 0, Y.row(0) + p, Y.stride, X.n);
  });
}

// X = F^T Y, of matrices that stay in the cache.
template <typename P>
[[gnu::noinline]] void transposed_product(const RowMatrix<P>& F, const RowMatrix<P>& Y,
                                          const RowMatrix<P>& X) {
  for_product_tiles<P>(X.packs, [&](int64_t p, int64_t width) TORCHDET_LANE_LAMBDA {
    subtract_rows<P, kProductPacks<P>, /*kFromZero=*/true>(
        X.n, width, [&](int64_t i) { return X.row(i) + p; },
        [&](int64_t i) { return factor_at(F, 0, i); }, F.stride * F.W * F.kParts, 0, Y.row(0) + p,
        Y.stride, X.n, /*fetch_ahead=*/false,
        [](auto& sum) TORCHDET_LANE_LAMBDA {
          for (auto& row : sum) {
            for (P& x : row) {
              x = -x;
            }
          }
        });
  });
}

// The packs of a range that some rows of X reach into: of a triangle below the diagonal if
// kForward, else above it, if kTriangular.
template <bool kForward, bool kTriangular, typename P>
Range packs_of_rows(const RowMatrix<P>& X, Range rows, Range packs) {
  if (kTriangular && kForward) {
    packs.end = std::min(packs.end, X.packs_for(rows.end));
  } else if (kTriangular) {
    packs.begin = std::max(packs.begin, rows.begin / X.W);
  }
  return packs;
}

// solve_triangular for a diagonal block, which takes no part in anything outside of it.
template <bool kForward, bool kTriangular, typename P, typename Finish>
void solve_diagonal_block(const RowMatrix<P>& F, const RowMatrix<P>& X, Range block, Range packs,
                          Finish finish) {
  const int64_t tiles = (block.size() + kTileRows - 1) / kTileRows;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t begin = block.begin + (kForward ? t : tiles - 1 - t) * kTileRows;
    const Range tile = {begin, std::min(begin + kTileRows, block.end)};
    const Range solved = kForward ? Range{block.begin, begin} : Range{tile.end, block.end};
    const Range own = packs_of_rows<kForward, kTriangular>(X, tile, packs);
    const auto row_of = [&](int64_t m) { return kForward ? begin + m : tile.end - 1 - m; };
    for (int64_t p = own.begin; p < own.end; p += kTilePacks<P>) {
      solve_rows<P>(
          tile.size(), std::min<int64_t>(kTilePacks<P>, own.end - p),
          [&](int64_t m) { return X.row(row_of(m)) + p; },
          [&](int64_t m) { return factor_at(F, row_of(m), solved.begin); }, kAlongRow,
          solved.begin % X.W, X.row(solved.begin) + p, X.stride, solved.size(),
          [&](int64_t m, int64_t k) { return factor_at(F, row_of(m), row_of(k)); },
          [&](int64_t m, P& x) TORCHDET_LANE_LAMBDA { finish(row_of(m), x); });
    }
  }
}

// X_i <- finish(i, X_i - sum_k F(i, k) X_k) within a range of packs, for k < i and from the first
// row on if kForward, else for k > i and from the last row on: with Unchanged, X <- M^-1 X for M
// the unit triangle of F below or above the diagonal. kTriangular: X is a triangle on the same
// side.
template <bool kForward, bool kTriangular = false, typename P, typename Finish = Unchanged>
void solve_triangular(const RowMatrix<P>& F, const RowMatrix<P>& X, Range packs,
                      Finish finish = {}) {
  const int64_t n = X.n, blocks = (n + kProductDepth - 1) / kProductDepth;
  const auto block = [&](int64_t b) {
    const int64_t begin = (kForward ? b : blocks - 1 - b) * kProductDepth;
    return Range{begin, std::min(begin + kProductDepth, n)};
  };
  for (int64_t b = 0; b < blocks; ++b) {
    for (int64_t solved = 0; solved < b; ++solved) {
      subtract_products(X, F, X, block(b), block(solved),
                        packs_of_rows<kForward, kTriangular>(X, block(solved), packs));
    }
    solve_diagonal_block<kForward, kTriangular>(F, X, block(b), packs, finish);
  }
}
template <bool kForward, typename P>
void solve_unit_triangular(const RowMatrix<P>& F, const RowMatrix<P>& X) {
  parallel(X.packs, X.n * X.n * X.W / 2, kGrainOfInverse,
           [&](int64_t begin, int64_t end) { solve_triangular<kForward>(F, X, {begin, end}); });
}

// X = the inverse of the unit triangle of F below the diagonal if kLower, else above it, within a
// range of packs.
template <bool kLower, typename P>
void invert_unit_triangle(const RowMatrix<P>& F, const RowMatrix<P>& X, Range packs) {
  for (int64_t i = 0; i < X.n; ++i) {
    std::fill(X.row(i) + packs.begin, X.row(i) + packs.end, zero<P>());
  }
  for (int64_t i = packs.begin * X.W; i < std::min(packs.end * X.W, X.n); ++i) {
    X.set(i, i, one<NumberOf<P>>());
  }
  solve_triangular<kLower, true>(F, X, packs);
}

// The largest entry, by pivot_size, of the inverse of the unit triangle of F below the diagonal if
// kLower, else above it. Takes X.
template <bool kLower, typename P>
RealOf<NumberOf<P>> largest_of_inverse(const RowMatrix<P>& F, const RowMatrix<P>& X) {
  using I = IntegerOf<P>;
  parallel(X.packs, X.n * X.n * X.W / 6, kGrainOfInverse,
           [&](int64_t begin, int64_t end) { invert_unit_triangle<kLower>(F, X, {begin, end}); });
  I largest = I(0);  // as integers, NaN is larger than any number
  for (int64_t i = 0; i < X.n; ++i) {
    for (int64_t v = 0; v < X.packs; ++v) {
      largest = maximum(largest, component_bits(X.row(i)[v]));
    }
  }
  return from_bits(fold_lanes(largest, [](I a, I b) { return maximum(a, b); }))[0];
}

// In blocks of W x W.
template <typename P>
void transpose(const RowMatrix<P>& X) {
  constexpr int W = RowMatrix<P>::W;
  const auto load_block = [&](int64_t i, int64_t p, P(&x)[W]) {
    for (int r = 0; r < W; ++r) {
      x[r] = i + r < X.n ? X.row(i + r)[p] : zero<P>();
    }
    transpose(x);
  };
  const auto store_block = [&](int64_t i, int64_t p, const P(&x)[W]) {
    for (int r = 0; r < W && i + r < X.n; ++r) {
      X.row(i + r)[p] = x[r];
    }
  };
  for (int64_t i = 0; i < X.packs; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      P lower[W], upper[W];
      load_block(i * W, j, lower);
      if (j < i) {
        load_block(j * W, i, upper);
        store_block(i * W, j, upper);
      }
      store_block(j * W, i, lower);
    }
  }
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
