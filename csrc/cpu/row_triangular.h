// Products and triangular systems of one matrix whose rows lie in packs, by blocks that stay in the
// cache.
#pragma once

#include "row_product.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// X_i -= sum_k F(i, k) X_k for rows i and k and the packs of the ranges.
template <typename P>
void subtract_products(const RowMatrix<P>& X, const RowMatrix<P>& F, Range rows, Range inner,
                       Range packs) {
  constexpr int W = RowMatrix<P>::W;
  const auto scalars = [](const P* packs) { return reinterpret_cast<const ScalarOf<P>*>(packs); };
  const bool fetch_ahead = X.n * X.packs * static_cast<int64_t>(sizeof(P)) >= kLeastFetchedAhead;
  for (int64_t first = inner.begin; first < inner.end; first += kProductDepth) {
    const int64_t count = std::min(kProductDepth, inner.end - first);
    for (int64_t p = packs.begin; p < packs.end; p += kTilePacks<P>) {
      const int64_t width = std::min<int64_t>(kTilePacks<P>, packs.end - p);
      const P* from = X.row(first) + p;
      int64_t stride = X.stride;
      P strip[kProductDepth * kTilePacks<P>];
      if (rows.size() > kTileRows) {  // sources of several tiles: on a few pages, line by line
        for (int64_t k = 0; k < count; ++k) {
          std::copy(from + k * stride, from + k * stride + width, strip + k * width);
        }
        from = strip;
        stride = width;
      }
      const auto subtract = [&](int64_t begin, int64_t end) {
        if (begin < end) {
          subtract_rows<P>(
              rows.size(), width, [&](int64_t m) { return X.row(rows.begin + m) + p; },
              [&](int64_t m) { return scalars(F.row(rows.begin + m)) + offset_of<P>(begin); },
              kAlongRow, from + (begin - first) * stride, stride, end - begin, fetch_ahead);
        }
      };
      const int64_t end = first + count;
      // Complex numbers along a row have to begin with a pack.
      const int64_t whole = kIsComplex<P> ? std::min((first + W - 1) / W * W, end) : first;
      subtract(first, whole);
      subtract(whole, end);
    }
  }
}

// solve_unit_triangular for a diagonal block, which takes no part in anything outside of it.
template <bool kForward, typename P>
void solve_diagonal_block(const RowMatrix<P>& F, const RowMatrix<P>& X, Range block, Range packs) {
  const int64_t tiles = (block.size() + kTileRows - 1) / kTileRows;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t begin = block.begin + (kForward ? t : tiles - 1 - t) * kTileRows;
    const Range tile = {begin, std::min(begin + kTileRows, block.end)};
    const Range solved = kForward ? Range{block.begin, begin} : Range{tile.end, block.end};
    subtract_products(X, F, tile, solved, packs);
    const auto row_of = [&](int64_t s) { return kForward ? begin + s : tile.end - 1 - s; };
    for (int64_t p = packs.begin; p < packs.end; p += kTilePacks<P>) {
      solve_unit_lower<P>(
          tile.size(), std::min<int64_t>(kTilePacks<P>, packs.end - p),
          [&](int64_t s) { return X.row(row_of(s)) + p; },
          [&](int64_t s, int64_t t) {
            return reinterpret_cast<const ScalarOf<P>*>(F.row(row_of(s))) + offset_of<P>(row_of(t));
          });
    }
  }
}

// X <- M^-1 X for M the unit triangle of F below the diagonal if kForward, else above it.
// kTriangular: X is a triangle on the same side.
template <bool kForward, bool kTriangular = false, typename P>
void solve_unit_triangular(const RowMatrix<P>& F, const RowMatrix<P>& X) {
  constexpr int W = RowMatrix<P>::W;
  const int64_t n = X.n, blocks = (n + kProductDepth - 1) / kProductDepth;
  const auto block = [&](int64_t b) {
    const int64_t begin = (kForward ? b : blocks - 1 - b) * kProductDepth;
    return Range{begin, std::min(begin + kProductDepth, n)};
  };
  const auto packs_of = [&](Range rows) {
    return kTriangular && kForward ? Range{0, RowMatrix<P>::packs_for(rows.end)}
           : kTriangular           ? Range{rows.begin / W, X.packs}
                                   : Range{0, X.packs};
  };
  for (int64_t b = 0; b < blocks; ++b) {
    for (int64_t solved = 0; solved < b; ++solved) {
      subtract_products(X, F, block(b), block(solved), packs_of(block(solved)));
    }
    solve_diagonal_block<kForward>(F, X, block(b), packs_of(block(b)));
  }
}

// The largest entry, by pivot_size, of the inverse of the unit triangle of F below the diagonal if
// kLower, else above it. Takes X.
template <bool kLower, typename P>
RealOf<NumberOf<P>> largest_of_inverse(const RowMatrix<P>& F, const RowMatrix<P>& X) {
  using I = IntegerOf<P>;
  X.clear();
  for (int64_t i = 0; i < X.n; ++i) {
    X.set(i, i, one<NumberOf<P>>());
  }
  solve_unit_triangular<kLower, true>(F, X);
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
