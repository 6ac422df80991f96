// First and second derivatives of determinants along d directions, one matrix per SIMD lane, which
// is factored once for all of them. One kernel serves all orders.
#pragma once

#include "../../math/jet.h"
#include "kernels.h"
#include "product.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// kDetJet, in the notation of math/jet.h and in the order of the rows and columns of A. A part of
// the lanes may take its matrices and directions transposed.
template <typename V>
struct LaneDetJet {
  using T = ScalarOf<V>;
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  static constexpr int W = LaneTraits<V>::kWidth, kParts = kIsComplex<V> ? 2 : 1;
  static constexpr int kRoom = (kMaxLaneOrder + 1) * tile_stride(kMaxLaneOrder);

  static void det_jet(const Problem& p, int64_t begin, int64_t end) {
    const int n = static_cast<int>(p.n);
    V z[kRoom];
    Factors plain, transposed, chosen;
    I row_exponent[kMaxLaneOrder], column_exponent[kMaxLaneOrder];
    for (int64_t first = begin; first < end; first += W) {
      const int lanes = static_cast<int>(std::min<int64_t>(W, end - first));
      Tile<V>::read(p.A, first, lanes, n, z);
      const Prepared prepared = prepare(z, n, row_exponent, column_exponent, plain, transposed);
      const I shift = shifts_of<V>(p, first, lanes);
      BatchView direction = p.other;
      for (int64_t i = 0; i < p.directions; ++i) {
        direction.data = static_cast<const T*>(p.other.data) + i * p.direction_stride * kParts;
        Tile<V>::read(direction, first, lanes, n, z);
        const JetScales<I> scales = scale(z, n, row_exponent, column_exponent);
        const bool some = any(scales.transposed);
        if (some) {
          choose(scales.transposed, n, plain, transposed, z, chosen);
        }
        const JetTerms<V> terms = terms_of(some ? chosen : plain, z, n);
        const I exponent = prepared.total + scales.exponent - shift;
        write(p.determinant, p, first, lanes, i, prepared.factors.first(terms), exponent, prepared);
        write(p.out, p, first, lanes, i, prepared.factors.second(terms), exponent + scales.exponent,
              prepared);
      }
    }
  }

 private:
  // T and, as one more row, g^T; and f.
  struct Factors {
    V left[kRoom], f[kMaxLaneOrder];
  };
  struct Prepared {
    JetFactors<V> factors;
    R sign, poison;
    I total;
  };

  // a: the matrices; overwritten.
  [[gnu::noinline]] static Prepared prepare(V* a, int n, I* row_exponent, I* column_exponent,
                                            Factors& plain, Factors& transposed) {
    const int s = tile_stride(n);
    V x[kMaxLaneOrder], y[kMaxLaneOrder], k[tile_size(kMaxLaneOrder)];
    R row_weight[kMaxLaneOrder], column_weight[kMaxLaneOrder];
    I row_index[kMaxLaneOrder], column_index[kMaxLaneOrder];
    I permuted_rows[kMaxLaneOrder], permuted_columns[kMaxLaneOrder];
    // All matrices, since p and q are to be the smallest pivots of B: r is at most 1 only then.
    const Equilibration<V> eq = equilibrate_all(a, n, row_exponent, column_exponent);
    std::fill(row_weight, row_weight + n, R(T(1)));
    std::fill(column_weight, column_weight + n, R(T(1)));
    for (int i = 0; i < n; ++i) {
      permuted_rows[i] = row_exponent[i];
      permuted_columns[i] = column_exponent[i];
    }
    const R sign = factor_ldu(a, n, {row_index, permuted_rows}, {column_index, permuted_columns},
                              row_weight, column_weight);
    const ExclusivePairProducts<V> rho([&](int64_t i) { return a[i * s + i]; }, n, x, y);
    // T^T = G^T diag(q / d_k) F^T; g and f come from unit vectors.
    V g[kMaxLaneOrder], f[kMaxLaneOrder];
    std::fill(k, k + tile_size(n), zero<V>());
    for (int i = 0; i < n; ++i) {
      const auto is_p = equal(rho.smallest(), I(i));
      k[i * s + i] = select(is_p, zero<V>(), x[i]);
      g[i] = f[i] = select(is_p, one<V>(), zero<V>());
    }
    carry_back(a, n, k);
    for (int r = n - 1; r > 0; --r) {
      for (int i = 0; i < r; ++i) {
        g[i] = fnma(a[r * s + i], g[r], g[i]);
        f[i] = fnma(a[i * s + r], f[r], f[i]);
      }
    }
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) {
        put(plain.left, column_index[j], s, row_index[i], 1, k[i * s + j]);
        put(transposed.left, row_index[i], s, column_index[j], 1, k[i * s + j]);
      }
      put(plain.left, I(n), s, row_index[i], 1, g[i]);
      put(transposed.f, row_index[i], 1, I(0), 0, g[i]);
      put(transposed.left, I(n), s, column_index[i], 1, f[i]);
      put(plain.f, column_index[i], 1, I(0), 0, f[i]);
    }
    return {JetFactors<V>(rho), sign, eq.poison, eq.total};
  }

  // to[i i_step + j j_step] = x, at another place in every lane.
  static void put(V* to, const I& i, int i_step, const I& j, int j_step, const V& x) {
    const T* const from = reinterpret_cast<const T*>(&x);
    for (int lane = 0; lane < W; ++lane) {
      T* const parts = reinterpret_cast<T*>(to + i[lane] * i_step + j[lane] * j_step) + lane;
      for (int part = 0; part < kParts; ++part) {
        parts[part * W] = from[part * W + lane];
      }
    }
  }

  // In the frame of B.
  static JetScales<I> scale(V* z, int n, const I* row, const I* column) {
    const int s = tile_stride(n);
    I by_column[kMaxLaneOrder];
    std::fill(by_column, by_column + n, I(kZeroExponent));
    TwoLargest<I> rows, columns;
    for (int i = 0; i < n; ++i) {
      I of_row = I(kZeroExponent);
      for (int j = 0; j < n; ++j) {
        const I e = entry_exponent(z[i * s + j]) + row[i] + column[j];
        of_row = maximum(of_row, e);
        by_column[j] = maximum(by_column[j], e);
      }
      rows.add(of_row);
    }
    for (int j = 0; j < n; ++j) {
      columns.add(by_column[j]);
    }
    const JetScales<I> scales = JetScales<I>::template of<T>(rows, columns);
    for (int j = 0; j < n; ++j) {
      by_column[j] = column[j] - scales.exponent;
    }
    PairScaling<V>(row, by_column, n).for_entries(n, [&](int i, int j, auto scale) {
      z[i * s + j] = scale(z[i * s + j]);
    });
    return scales;
  }

  // z, and what is multiplied with it, for lanes of both kinds.
  template <typename Mask>
  [[gnu::noinline]] static void choose(Mask is_transposed, int n, const Factors& plain,
                                       const Factors& transposed, V* z, Factors& chosen) {
    const int s = tile_stride(n);
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < i; ++j) {
        const V below = z[i * s + j], above = z[j * s + i];
        z[i * s + j] = select(is_transposed, above, below);
        z[j * s + i] = select(is_transposed, below, above);
      }
      chosen.f[i] = select(is_transposed, transposed.f[i], plain.f[i]);
    }
    for (int i = 0; i <= n; ++i) {
      for (int j = 0; j < n; ++j) {
        const int at = i * s + j;
        chosen.left[at] = select(is_transposed, transposed.left[at], plain.left[at]);
      }
    }
  }

  static JetTerms<V> terms_of(const Factors& factors, const V* z, int n) {
    const int s = tile_stride(n);
    V product[kRoom];  // N, v^T
    LaneProduct<V>::multiply(factors.left, n + 1, z, n, product);
    const V* const v = product + n * s;
    JetTerms<V> x;
    for (int i = 0; i < n; ++i) {
      const V* const row = product + i * s;
      x.add_diagonal(row[i], factors.f[i] * v[i]);
      V pairs = zero<V>(), of_f = zero<V>();
      for (int j = 0; j < n; ++j) {
        if (j < i) {
          pairs = fma(row[j], product[j * s + i], pairs);
        }
        of_f = j == i ? of_f : fma(row[j], factors.f[j], of_f);
      }
      x.minors = x.minors + -pairs;
      x.mixed = fnma(v[i], of_f, x.mixed);
    }
    return x;
  }

  // Number i of the d numbers of each matrix.
  static void write(void* out, const Problem& p, int64_t first, int lanes, int64_t i, Scaled<V> x,
                    I exponent, const Prepared& prepared) {
    const V value =
        add_poison(scale_pow2(x.mantissa * prepared.sign, x.exponent + exponent), prepared.poison);
    const T* const from = reinterpret_cast<const T*>(&value);
    for (int lane = 0; lane < lanes; ++lane) {
      T* const to = static_cast<T*>(out) + ((first + lane) * p.directions + i) * kParts;
      for (int part = 0; part < kParts; ++part) {
        to[part] = from[part * W + lane];
      }
    }
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
