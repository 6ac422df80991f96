// Hessian-vector products of the class "lane": one matrix and one direction per SIMD lane.
#pragma once

#include "../../math/hvp.h"
#include "../../math/hvp_closed.h"
#include "kernels.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// The factors of kDetBackwardJvp, the conjugate of whose result is what is computed.
template <typename V>
TORCHDET_LANE JvpFactors<V> read_jvp_factors(const Problem& p, int64_t first, int lanes,
                                             IntegerOf<V> z) {
  BatchView numbers;
  numbers.append(p.batch, 1);
  const auto read = [&](const void* data) {
    numbers.data = data;
    return conj(Tile<V>::read_numbers(numbers, first, lanes));
  };
  return JvpFactors<V>(read(p.of_hvp), read(p.of_cofactor), z);
}
template <typename V>
TORCHDET_LANE void conjugate_tile(V* tile, int n) {
  if constexpr (kIsComplex<V>) {
    for (int k = 0; k < tile_size(n); ++k) {
      tile[k] = conj(tile[k]);
    }
  }
}

// kDetHvp and kDetBackwardJvp, n <= 4. For n <= 2 the derivative does not depend on B.
template <typename V, int N>
struct ClosedHvp {
  using I = IntegerOf<V>;
  using Io = Tile<V>;
  static constexpr int W = Io::W;

  static void det_hvp(const Problem& p, int64_t begin, int64_t end) {
    if (p.op == Op::kDetBackwardJvp) {
      det_backward_jvp(p, begin, end);
      return;
    }
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
        const I shift = shifts_of<V>(p, first, lanes);
        for (V& x : h) {
          x = add_poison(p.shift == nullptr ? x : scale_pow2(x, -shift), eq.poison);
        }
      } else {
        DirectionScaling<V> scaling(z, N, row_exponent, column_exponent);
        cofactor_derivative_closed<N>(a, z, h);
        const I exponent = eq.total - shifts_of<V>(p, first, lanes);
        scaling.restore(h, RealOf<V>(ScalarOf<V>(1)), exponent, eq.poison);
      }
      Io::write_whole(p.out, first, lanes, N, h);
    }
  }

 private:
  // Out of line: the other loop is so short that it would feel another branch.
  [[gnu::noinline]] static void det_backward_jvp(const Problem& p, int64_t begin, int64_t end) {
    V a[N * N], z[N * N], h[N * N];
    I row_exponent[N], column_exponent[N];
    for (int64_t first = begin; first < end; first += W) {
      const int lanes = static_cast<int>(std::min<int64_t>(W, end - first));
      Io::read(p.A, first, lanes, N, a);
      Io::read(p.other, first, lanes, N, z);
      const Equilibration<V> eq = equilibrate<N>(a, N, row_exponent, column_exponent);
      DirectionScaling<V> scaling(z, N, row_exponent, column_exponent);
      const JvpFactors<V> jvp = read_jvp_factors<V>(p, first, lanes, scaling.exponent());
      cofactor_derivative_closed<N>(a, z, h);
      cofactor_closed<N>(a, z);
      for (int t = 0; t < N * N; ++t) {
        h[t] = fma(z[t], jvp.of_cofactor, h[t] * jvp.of_hvp);
      }
      const I exponent = eq.total - shifts_of<V>(p, first, lanes) + jvp.exponent;
      scaling.restore(h, RealOf<V>(ScalarOf<V>(1)), exponent - scaling.exponent(), eq.poison);
      conjugate_tile(h, N);
      Io::write_whole(p.out, first, lanes, N, h);
    }
  }
};

// Entry (i, j) of a tile is entry (rows[i], columns[j]) of a matrix, differently in every lane. Out
// of line, for all orders.
template <typename V>
struct PermutedTile {
  using T = ScalarOf<V>;
  using I = IntegerOf<V>;
  static constexpr int W = Tile<V>::W, kParts = Tile<V>::kParts;

  [[gnu::noinline]] static void gather(const BatchView& view, int64_t first, int lanes, int n,
                                       const I* rows, const I* columns, V* tile) {
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

  [[gnu::noinline]] static void scatter(void* out, int64_t first, int lanes, int n, const I* rows,
                                        const I* columns, const V* tile) {
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

// kDetHvp and kDetBackwardJvp. Complete pivoting permutes rows and columns differently in every
// lane. The factors stay in pivoted order; only the direction is gathered, and the result
// scattered, entry by entry.
template <typename V, int N>
struct FactoredHvp {
  using I = IntegerOf<V>;
  using Io = Tile<V>;
  static constexpr int W = Io::W;

  static void det_hvp(const Problem& p, int64_t begin, int64_t end) {
    constexpr int n = N;
    V a[tile_size(N)], w[tile_size(N)], k[tile_size(N)];
    RealOf<V> row_weight[N], column_weight[N];
    I row_index[N], row_exponent[N], column_index[N], column_exponent[N];
    for (int64_t first = begin; first < end; first += W) {
      const int lanes = static_cast<int>(std::min<int64_t>(W, end - first));
      Io::read(p.A, first, lanes, n, a);
      const Equilibration<V> eq = equilibrate<0>(a, n, row_exponent, column_exponent, row_weight);
      column_weights(a, n, row_weight, column_weight);
      const RealOf<V> sign = factor_ldu(a, n, {row_index, row_exponent},
                                        {column_index, column_exponent}, row_weight, column_weight);
      PermutedTile<V>::gather(p.other, first, lanes, n, row_index, column_index, w);
      DirectionScaling<V> scaling(w, n, row_exponent, column_exponent);
      // One call for both operators: it is most of the code of this kernel.
      const bool is_jvp = p.op == Op::kDetBackwardJvp;
      JvpFactors<V> jvp;
      if (is_jvp) {
        jvp = read_jvp_factors<V>(p, first, lanes, scaling.exponent());
      }
      I exponent = cofactor_derivative(a, n, w, k, is_jvp ? &jvp : nullptr) + eq.total -
                   shifts_of<V>(p, first, lanes);
      if (is_jvp) {
        exponent = exponent + jvp.exponent - scaling.exponent();
      }
      scaling.restore(k, sign, exponent, eq.poison);
      if (is_jvp) {
        conjugate_tile(k, n);
      }
      PermutedTile<V>::scatter(p.out, first, lanes, n, row_index, column_index, k);
    }
  }
};

template <typename V, int N>
using LaneHvp = std::conditional_t<(N <= 4), ClosedHvp<V, N>, FactoredHvp<V, N>>;

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
