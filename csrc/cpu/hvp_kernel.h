// Hessian-vector products of the class "lane": one matrix and one direction per SIMD lane.
#pragma once

#include "../math/hvp.h"
#include "../math/hvp_closed.h"
#include "lane_kernels.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// Directions Z and results H, in the frame of B.
template <typename V>
class DirectionScaling {
 public:
  using I = IntegerOf<V>;
  // Z <- 2^-z Z' with entries of at most 2, Z' = 2^-(r + c) Z. Keeps the exponents -r and -c.
  TORCHDET_LANE DirectionScaling(V* Z, int n, const I* row, I* column)
      : n_(n), row_(row), column_(column) {
    const int s = tile_stride(n);
    I z = I(kZeroExponent);
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) {
        z = maximum(z, entry_exponent(Z[i * s + j]) + row[i] + column[j]);
      }
    }
    z_ = select(greater(I(kZeroExponentBound), z), I(0), z);
    shift(-z_);
    PairScaling<V>(row_, column_, n).for_entries(n, [&](int i, int j, auto scale) {
      Z[i * s + j] = scale(Z[i * s + j]);
    });
  }
  // H <- the derivative at A from that at B, times factor 2^exponent. Once only.
  TORCHDET_LANE void restore(V* H, RealOf<V> factor, I exponent, RealOf<V> poison) {
    const int s = tile_stride(n_);
    shift(exponent + z_ + z_);
    PairScaling<V>(row_, column_, n_).for_entries(n_, [&](int i, int j, auto scale) {
      H[i * s + j] = add_poison(scale(H[i * s + j] * factor), poison);
    });
  }

 private:
  TORCHDET_LANE void shift(I by) {
    for (int j = 0; j < n_; ++j) {
      column_[j] = column_[j] + by;
    }
  }
  const int n_;
  const I* const row_;
  I* const column_;
  I z_;
};

// kDetHvp, n <= 4. For n <= 2 the derivative does not depend on B.
template <typename V, int N>
struct ClosedHvp {
  using I = IntegerOf<V>;
  using Io = Tile<V>;
  static constexpr int W = Io::W;

  static void det_hvp(const Problem& p, int64_t begin, int64_t end) {
    V a[N * N], z[N * N], h[N * N];
    I row_exponent[N], column_exponent[N];
    for (int64_t first = begin; first < end; first += W) {
      const int lanes = static_cast<int>(std::min<int64_t>(W, end - first));
      Io::read(p.A, first, lanes, N, a);
      Io::read(p.other, first, lanes, N, z);
      Io::expect_whole(p.out, first + W, N);
      const Equilibration<V> eq = equilibrate<N>(a, N, row_exponent, column_exponent);
      if constexpr (N <= 2) {
        cofactor_derivative_closed<N>(a, z, h);
        for (V& x : h) {
          x = add_poison(x, eq.poison);
        }
      } else {
        DirectionScaling<V> scaling(z, N, row_exponent, column_exponent);
        cofactor_derivative_closed<N>(a, z, h);
        scaling.restore(h, RealOf<V>(ScalarOf<V>(1)), eq.total, eq.poison);
      }
      Io::write_whole(p.out, first, lanes, N, h);
    }
  }
};

// kDetHvp. Complete pivoting permutes rows and columns differently in every lane. The factors stay
// in pivoted order; only the direction is gathered, and the result scattered, entry by entry.
template <typename V, int N>
struct FactoredHvp {
  using T = ScalarOf<V>;
  using I = IntegerOf<V>;
  using Io = Tile<V>;
  static constexpr int W = Io::W, kParts = Io::kParts;

  static void det_hvp(const Problem& p, int64_t begin, int64_t end) {
    constexpr int n = N;
    V a[tile_size(N)], w[tile_size(N)], k[tile_size(N)];
    I row_index[N], row_exponent[N], column_index[N], column_exponent[N];
    for (int64_t first = begin; first < end; first += W) {
      const int lanes = static_cast<int>(std::min<int64_t>(W, end - first));
      Io::read(p.A, first, lanes, n, a);
      const Equilibration<V> eq = equilibrate<0>(a, n, row_exponent, column_exponent);
      const RealOf<V> sign =
          factor_ldu(a, n, {row_index, row_exponent}, {column_index, column_exponent});
      gather(p.other, first, lanes, n, row_index, column_index, w);
      DirectionScaling<V> scaling(w, n, row_exponent, column_exponent);
      const I exponent = cofactor_derivative(a, n, w, k) + eq.total;
      scaling.restore(k, sign, exponent, eq.poison);
      scatter(p.out, first, lanes, n, row_index, column_index, k);
    }
  }

 private:
  static void gather(const BatchView& view, int64_t first, int lanes, int n, const I* rows,
                     const I* columns, V* tile) {
    for (int lane = 0; lane < W; ++lane) {
      const T* from = static_cast<const T*>(view.data) +
                      view.offset(first + std::min(lane, lanes - 1)) * kParts;
      for (int i = 0; i < n; ++i) {
        for (int j = 0; j < n; ++j) {
          const int64_t offset =
              rows[i][lane] * view.row_stride + columns[j][lane] * view.column_stride;
          T* parts = reinterpret_cast<T*>(tile + i * tile_stride(n) + j) + lane;
          for (int part = 0; part < kParts; ++part) {
            parts[part * W] = from[offset * kParts + part];
          }
        }
      }
    }
  }

  static void scatter(void* out, int64_t first, int lanes, int n, const I* rows, const I* columns,
                      const V* tile) {
    for (int lane = 0; lane < lanes; ++lane) {
      T* to = static_cast<T*>(out) + (first + lane) * n * n * kParts;
      for (int i = 0; i < n; ++i) {
        for (int j = 0; j < n; ++j) {
          const T* parts = reinterpret_cast<const T*>(tile + i * tile_stride(n) + j) + lane;
          for (int part = 0; part < kParts; ++part) {
            to[(rows[i][lane] * n + columns[j][lane]) * kParts + part] = parts[part * W];
          }
        }
      }
    }
  }
};

template <typename V, int N>
using LaneHvp = std::conditional_t<(N <= 4), ClosedHvp<V, N>, FactoredHvp<V, N>>;

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
