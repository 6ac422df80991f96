// First and second derivatives of determinants along d directions, one matrix per SIMD lane, which
// is factored once for all of them. One kernel serves all orders.
#pragma once

#include "../../math/jet.h"
#include "kernels.h"
#include "product.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// kDetJet. In the notation of math/jet.h `left` holds Y, then g_p^T and g_q^T, in the order of the
// columns and rows of A: directions are taken as they come, without a permutation.
template <typename V>
struct LaneDetJet {
  using T = ScalarOf<V>;
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  static constexpr int W = LaneTraits<V>::kWidth, kParts = kIsComplex<V> ? 2 : 1;
  static constexpr int kRoom = (kMaxLaneOrder + 2) * tile_stride(kMaxLaneOrder);

  static void det_jet(const Problem& p, int64_t begin, int64_t end) {
    const int n = static_cast<int>(p.n);
    V left[kRoom], z[kRoom], f_p[kMaxLaneOrder], f_q[kMaxLaneOrder];
    I row_exponent[kMaxLaneOrder], column_exponent[kMaxLaneOrder], column[kMaxLaneOrder];
    for (int64_t first = begin; first < end; first += W) {
      const int lanes = static_cast<int>(std::min<int64_t>(W, end - first));
      Tile<V>::read(p.A, first, lanes, n, z);
      const Prepared prepared = prepare(z, n, row_exponent, column_exponent, left, f_p, f_q);
      const I shift = shifts_of<V>(p, first, lanes);
      BatchView direction = p.other;
      for (int64_t i = 0; i < p.directions; ++i) {
        direction.data = static_cast<const T*>(p.other.data) + i * p.direction_stride * kParts;
        Tile<V>::read(direction, first, lanes, n, z);
        for (int j = 0; j < n; ++j) {
          column[j] = column_exponent[j];
        }
        const DirectionScaling<V> scaling(z, n, row_exponent, column);
        const JetTerms<V> terms = terms_of(left, z, n, f_p, f_q);
        const I exponent = prepared.total + scaling.exponent() - shift;
        write(p.determinant, p, first, lanes, i, prepared.factors.first(terms), exponent, prepared);
        write(p.out, p, first, lanes, i, prepared.factors.second(terms),
              exponent + scaling.exponent(), prepared);
      }
    }
  }

 private:
  struct Prepared {
    JetFactors<V> factors;
    R sign, poison;
    I total;
  };

  // a: the matrices; overwritten.
  [[gnu::noinline]] static Prepared prepare(V* a, int n, I* row_exponent, I* column_exponent,
                                            V* left, V* f_p, V* f_q) {
    const int s = tile_stride(n);
    V x[kMaxLaneOrder], y[kMaxLaneOrder], k[tile_size(kMaxLaneOrder)];
    R row_weight[kMaxLaneOrder], column_weight[kMaxLaneOrder];
    I row_index[kMaxLaneOrder], column_index[kMaxLaneOrder];
    I permuted_rows[kMaxLaneOrder], permuted_columns[kMaxLaneOrder];
    const Equilibration<V> eq = equilibrate<0>(a, n, row_exponent, column_exponent, row_weight);
    column_weights(a, n, row_weight, column_weight);
    for (int i = 0; i < n; ++i) {
      permuted_rows[i] = row_exponent[i];
      permuted_columns[i] = column_exponent[i];
    }
    const R sign = factor_ldu(a, n, {row_index, permuted_rows}, {column_index, permuted_columns},
                              row_weight, column_weight);
    const ExclusivePairProducts<V> rho([&](int64_t i) { return a[i * s + i]; }, n, x, y);
    // Y^T = G^T diag(q / d_k) F^T, and the last row of G and column of F come from unit vectors.
    V g_p[kMaxLaneOrder], g_q[kMaxLaneOrder], h_p[kMaxLaneOrder], h_q[kMaxLaneOrder];
    std::fill(k, k + tile_size(n), zero<V>());
    for (int i = 0; i < n; ++i) {
      const auto is_p = equal(rho.smallest(), I(i)), is_q = equal(rho.second_smallest(), I(i));
      k[i * s + i] = select(mask_or(is_p, is_q), zero<V>(), x[i]);
      g_p[i] = h_p[i] = select(is_p, one<V>(), zero<V>());
      g_q[i] = h_q[i] = select(is_q, one<V>(), zero<V>());
    }
    carry_back(a, n, k);
    for (int r = n - 1; r > 0; --r) {
      for (int i = 0; i < r; ++i) {
        const V l = a[r * s + i], u = a[i * s + r];
        g_p[i] = fnma(l, g_p[r], g_p[i]);
        g_q[i] = fnma(l, g_q[r], g_q[i]);
        h_p[i] = fnma(u, h_p[r], h_p[i]);
        h_q[i] = fnma(u, h_q[r], h_q[i]);
      }
    }
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) {
        put(left, column_index[j], s, row_index[i], 1, k[i * s + j]);
      }
      put(left, I(n), s, row_index[i], 1, g_p[i]);
      put(left, I(n + 1), s, row_index[i], 1, g_q[i]);
      put(f_p, column_index[i], 1, I(0), 0, h_p[i]);
      put(f_q, column_index[i], 1, I(0), 0, h_q[i]);
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

  static JetTerms<V> terms_of(const V* left, const V* z, int n, const V* f_p, const V* f_q) {
    const int s = tile_stride(n);
    V product[kRoom];  // N, g_p^T Z, g_q^T Z
    LaneProduct<V>::multiply(left, n + 2, z, n, product);
    const V* const gz_p = product + n * s;
    const V* const gz_q = gz_p + s;
    JetTerms<V> x;
    x.t = x.t_of_square = x.a_pp = x.a_pq = x.a_qp = x.a_qq = x.b_p = x.b_q = zero<V>();
    for (int i = 0; i < n; ++i) {
      const V* const row = product + i * s;
      V above = zero<V>(), f_of_p = zero<V>(), f_of_q = zero<V>();  // rows i of N f
      for (int j = 0; j < n; ++j) {
        f_of_p = fma(row[j], f_p[j], f_of_p);
        f_of_q = fma(row[j], f_q[j], f_of_q);
      }
      for (int j = i + 1; j < n; ++j) {
        above = fma(row[j], product[j * s + i], above);
      }
      x.t = x.t + row[i];
      x.t_of_square = fma(row[i], row[i], x.t_of_square) + (above + above);
      x.b_p = fma(gz_p[i], f_of_p, x.b_p);
      x.b_q = fma(gz_q[i], f_of_q, x.b_q);
      x.a_pp = fma(gz_p[i], f_p[i], x.a_pp);
      x.a_pq = fma(gz_p[i], f_q[i], x.a_pq);
      x.a_qp = fma(gz_q[i], f_p[i], x.a_qp);
      x.a_qq = fma(gz_q[i], f_q[i], x.a_qq);
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
