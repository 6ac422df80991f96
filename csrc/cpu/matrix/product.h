// Subtracts a product: rows -= factors * rows. Large matrices spend nearly all their time here.
//
// Strides are arguments of their own: the compiler makes copies of these functions for those that
// are constant, which it does not for the members of a struct.
#pragma once

#include "../../tuning.h"
#include "row_matrix.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// A tile of kTileRows rows of kTilePacks packs stays in registers.
#if TORCHDET_VECTOR_BYTES == 64 || defined(__aarch64__)
constexpr ProductTile kTile = kTileOf32Registers;
#else
constexpr ProductTile kTile = kTileOf16Registers;
#endif
constexpr int kTileRows = kTile.rows;
template <typename P>
constexpr int kTilePacks = kIsComplex<P> ? kTile.complex_packs : kTile.packs;
// The same where a product is all that is done.
template <typename P>
constexpr int kProductPacks = kIsComplex<P> ? kTile.complex_packs : kTile.product_packs;

// body(first, number) for tiles that cover `packs` packs, of equal widths up to one pack: a narrow
// one at the end would wait for its own sums.
template <typename P, typename Body>
TORCHDET_LANE void for_product_tiles(int64_t packs, Body body) {
  constexpr int64_t kMost = kProductPacks<P>;
  for (int64_t p = 0, tiles = (packs + kMost - 1) / kMost; tiles > 0; --tiles) {
    const int64_t width = (packs - p + tiles - 1) / tiles;
    body(p, width);
    p += width;
  }
}

// Where the factors of a tile lie: number k of row m at row[m] + k * stride. kAlongRow: number
// `lane` + k of packs, row[m] being where number `lane` lies. After each pack of complex numbers
// come its imaginary parts.
constexpr int64_t kAlongRow = 1;

struct Unchanged {
  template <typename... X>
  TORCHDET_LANE void operator()(X&&...) const {}
};

// to[m][0 .. NP) -= sum_k factor(m, k) from[k][0 .. NP) for k < count, where factor(m, k) is the
// number at factor[m] + k * factor_stride, and from[k] begins at from + k * from_stride. Each entry
// takes its products in the order of k, whatever the shape of the tile. With
// kAlongRow the factors lie along a row of packs, the first in lane `lane` of its pack: behind the
// last lane of a complex pack, W imaginary parts are skipped. kFromZero: to[m] counts as zero
// before. finish(sum): what else to do to the tile.
template <int NP, bool kFromZero = false, typename P, typename Finish = Unchanged>
TORCHDET_LANE void subtract_tile(P* const (&to)[kTileRows],
                                 const ScalarOf<P>* const (&factor)[kTileRows],
                                 int64_t factor_stride, int64_t lane, const P* from,
                                 int64_t from_stride, int64_t count, Finish finish = {}) {
  P sum[kTileRows][NP];
  for (int m = 0; m < kTileRows; ++m) {
    for (int q = 0; q < NP; ++q) {
      sum[m][q] = kFromZero ? zero<P>() : to[m][q];
    }
  }
  const auto add_products = [&](int64_t begin, int64_t end, int64_t skipped) TORCHDET_LANE_LAMBDA {
    for (int64_t k = begin; k < end; ++k) {
      P source[NP];
      for (int q = 0; q < NP; ++q) {
        source[q] = from[k * from_stride + q];
      }
      for (int m = 0; m < kTileRows; ++m) {
        const P f = broadcast<P>(number_at<P>(factor[m] + k * factor_stride + skipped));
        for (int q = 0; q < NP; ++q) {
          sum[m][q] = fnma(f, source[q], sum[m][q]);
        }
      }
    }
  };
  constexpr int64_t W = LaneTraits<P>::kWidth;
  if (kIsComplex<P> && factor_stride == kAlongRow) {
    for (int64_t k = -lane; k < count; k += W) {
      add_products(std::max<int64_t>(k, 0), std::min(k + W, count), k + lane);
    }
  } else {
    add_products(0, count, 0);
  }
  finish(sum);
  for (int m = 0; m < kTileRows; ++m) {
    for (int q = 0; q < NP; ++q) {
      to[m][q] = sum[m][q];
    }
  }
}

// The same for the packs [0, packs), packs <= NP.
template <int NP, bool kFromZero = false, typename P, typename Finish = Unchanged>
TORCHDET_LANE void subtract_tile_of(int64_t packs, P* const (&to)[kTileRows],
                                    const ScalarOf<P>* const (&factor)[kTileRows],
                                    int64_t factor_stride, int64_t lane, const P* from,
                                    int64_t from_stride, int64_t count, Finish finish = {}) {
  if (packs == NP) {
    subtract_tile<NP, kFromZero>(to, factor, factor_stride, lane, from, from_stride, count, finish);
  } else if constexpr (NP > 1) {
    subtract_tile_of<NP - 1, kFromZero>(packs, to, factor, factor_stride, lane, from, from_stride,
                                        count, finish);
  }
}

// The rows of a product, given by functions of m: row_of(m), the packs to change, and factor_of(m),
// the first factor. A last tile with rows to spare does their work in a spare place. fetch_ahead:
// prefetches the next tile, for rows that are not in the cache; after the last tile of these packs,
// the first tile of the next packs.
template <typename P, int kMostPacks = kTilePacks<P>, bool kFromZero = false, typename RowOf,
          typename FactorOf, typename Finish = Unchanged>
void subtract_rows(int64_t rows, int64_t packs, RowOf row_of, FactorOf factor_of,
                   int64_t factor_stride, int64_t lane, const P* from, int64_t from_stride,
                   int64_t count, bool fetch_ahead = false, Finish finish = {}) {
  P spare[kMostPacks];
  std::fill(spare, spare + kMostPacks, zero<P>());
  for (int64_t i = 0; i < rows; i += kTileRows) {
    P* to[kTileRows];
    const ScalarOf<P>* factor[kTileRows];
    for (int m = 0; m < kTileRows; ++m) {
      to[m] = i + m < rows ? row_of(i + m) : spare;
      factor[m] = factor_of(std::min(i + m, rows - 1));
    }
    if (fetch_ahead) {
      const bool last = i + kTileRows >= rows;
      for (int m = 0; m < kTileRows; ++m) {
        const int64_t row = std::min(last ? m : i + kTileRows + m, rows - 1);
        const P* const next = row_of(row) + (last ? packs : 0);
        for (size_t line = 0; line < kMostPacks * sizeof(P); line += kCacheLine) {
          __builtin_prefetch(reinterpret_cast<const char*>(next) + line);
        }
      }
    }
    subtract_tile_of<kMostPacks, kFromZero>(packs, to, factor, factor_stride, lane, from,
                                            from_stride, count, finish);
  }
}

// x_a <- x_a - sum_{c < a} f(a, c) x_c, and then finish(a, x_a), in registers, for a < count and
// the packs of a tile; factor_of(a, c) is where f(a, c) lies.
template <typename P, int NP, typename FactorOf, typename Finish>
TORCHDET_LANE void solve_tile(P (&x)[kTileRows][NP], int64_t count, FactorOf factor_of,
                              Finish finish) {
  for_steps<0, kTileRows, true>([&](auto a) TORCHDET_LANE_LAMBDA {
    if (a < count) {
      for_steps<0, decltype(a)::value, true>([&](auto c) TORCHDET_LANE_LAMBDA {
        const P f = broadcast<P>(number_at<P>(factor_of(a, c)));
        for (int q = 0; q < NP; ++q) {
          x[a][q] = fnma(f, x[c][q], x[a][q]);
        }
      });
      for (int q = 0; q < NP; ++q) {
        finish(a, x[a][q]);
      }
    }
  });
}

// A tile of a triangular system: after the products with the rows solved before, as of
// subtract_rows for `count` rows, those with the rows of the tile itself.
template <typename P, typename RowOf, typename FactorOf, typename OwnFactorOf,
          typename Finish = Unchanged>
void solve_rows(int64_t rows, int64_t packs, RowOf row_of, FactorOf factor_of,
                int64_t factor_stride, int64_t lane, const P* from, int64_t from_stride,
                int64_t count, OwnFactorOf own_factor_of, Finish finish = {}) {
  P spare[kTilePacks<P>];
  std::fill(spare, spare + kTilePacks<P>, zero<P>());
  P* to[kTileRows];
  const ScalarOf<P>* factor[kTileRows];
  for (int m = 0; m < kTileRows; ++m) {
    to[m] = m < rows ? row_of(m) : spare;
    factor[m] = factor_of(std::min<int64_t>(m, rows - 1));
  }
  subtract_tile_of<kTilePacks<P>>(
      packs, to, factor, factor_stride, lane, from, from_stride, count,
      [&](auto& x) TORCHDET_LANE_LAMBDA { solve_tile<P>(x, rows, own_factor_of, finish); });
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
