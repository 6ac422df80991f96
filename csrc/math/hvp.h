// Second derivative of det: H[Z], the derivative of the cofactor matrix in direction Z, exact at
// every rank.
//
// With P B Q = L D U, G = L^-1 P and F = Q U^-1 make G B F = D diagonal and det G det F = s = +-1.
// Since det(B + Z) = s det(D + W) with W = G Z F, every derivative at B is the derivative at the
// diagonal D carried back:
//     H[Z] = s G^T K F^T,   K_ij = -rho_ij W_ji  (i != j),   K_ii = sum_{k != i} rho_ik W_kk, (1)
//     rho_ij = prod_{k != i,j} d_k.
// The exclusive products come from the two smallest pivots d_p, d_q (|d_p| <= |d_q|): with m =
// prod_{k != p,q} d_k, x_i = d_q / d_i and y_i = d_p / d_i for the others and x = y = 1 for p and q
// themselves,
//     rho_ij = m x_j y_i  if i = p or j = q,   m x_i y_j  otherwise. (2)
// Every quotient has modulus at most 1, and 0 / 0 counts as 0: then d_p = 0 too and the product is
// exactly 0. There is no threshold on the rank and no division by a small pivot.
#pragma once

#include "ldu.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// x and y are caller's storage for n numbers each; pivot(k) is d_k.
template <typename V>
class ExclusivePairProducts {
 public:
  Scaled<V> common;  // m

  template <typename Pivot>
  TORCHDET_LANE ExclusivePairProducts(Pivot pivot, int64_t n, V* x, V* y) : x_(x), y_(y) {
    using R = RealOf<V>;
    using I = IntegerOf<V>;
    const R infinity = R(std::numeric_limits<ScalarOf<V>>::infinity());
    R p_size = infinity, q_size = infinity;
    V p_value = one<V>(), q_value = one<V>();  // 1 for q where n = 1
    smallest_ = second_smallest_ = I(-1);
    TORCHDET_UNROLL
    for (int64_t k = 0; k < n; ++k) {
      const R size = pivot_size(pivot(k));
      const auto below_p = greater(p_size, size);
      const auto below_q = greater(q_size, size);
      // A new smallest pivot pushes the old one to second place.
      q_value = select(below_p, p_value, select(below_q, pivot(k), q_value));
      second_smallest_ = select(below_p, smallest_, select(below_q, I(k), second_smallest_));
      q_size = select(below_p, p_size, select(below_q, size, q_size));
      p_value = select(below_p, pivot(k), p_value);
      smallest_ = select(below_p, I(k), smallest_);
      p_size = select(below_p, size, p_size);
    }
    common = scaled_one<V>();
    TORCHDET_UNROLL
    for (int64_t k = 0; k < n; ++k) {
      const auto is_pq = mask_or(equal(smallest_, I(k)), equal(second_smallest_, I(k)));
      common = common * select(is_pq, one<V>(), pivot(k));
      const PivotQuotient<V> quotient(pivot(k));
      x[k] = select(is_pq, one<V>(), quotient(q_value));
      y[k] = select(is_pq, one<V>(), quotient(p_value));
    }
    smallest_pivot_ = p_value;
    second_smallest_pivot_ = q_value;
  }

  TORCHDET_LANE IntegerOf<V> smallest() const { return smallest_; }                 // p
  TORCHDET_LANE IntegerOf<V> second_smallest() const { return second_smallest_; }   // q
  TORCHDET_LANE V smallest_pivot() const { return smallest_pivot_; }                // d_p
  TORCHDET_LANE V second_smallest_pivot() const { return second_smallest_pivot_; }  // d_q

  // prod_{k != i} d_k / m.
  TORCHDET_LANE V without(int64_t i) const {
    using I = IntegerOf<V>;
    const V other = select(equal(second_smallest_, I(i)), smallest_pivot_, x_[i] * smallest_pivot_);
    return select(equal(smallest_, I(i)), second_smallest_pivot_, other);
  }
  // rho_ij / m of (2).
  TORCHDET_LANE V operator()(int64_t i, int64_t j) const {
    using I = IntegerOf<V>;
    const auto swapped = mask_or(equal(smallest_, I(i)), equal(second_smallest_, I(j)));
    return select(swapped, x_[j], x_[i]) * select(swapped, y_[i], y_[j]);
  }

 private:
  const V* x_;
  const V* y_;
  IntegerOf<V> smallest_, second_smallest_;
  V smallest_pivot_, second_smallest_pivot_;
};

// Whether Hessian-vector products from an inverse X are good enough, by (2) of cpu/rows/det_hvp.h:
//     |B| |X| (|S| |X| + |u| |v|) / max(1, |B| / (|X| |d d'|)) <= n kLargestSensitivity.
// `excess` is what errors are larger by where X is a difference of larger numbers. |X d| is at
// least 1, as 1 / d is an entry of X. Neither NaN nor what overflows passes.
template <typename R>
TORCHDET_LANE bool inverse_serves_hvp(int64_t n, R largest, R inverse, R last_pivot, R uv, R d,
                                      R other_d, R excess = R(1)) {
  const R error = largest * inverse * (last_pivot * inverse + uv) * excess;
  const R bound = R(n * kLargestSensitivity);
  return error <= bound || error * (inverse * d * other_d) <= bound * largest;
}

// row_to -= factor * row_from, entries [begin, end).
template <typename V>
TORCHDET_LANE void subtract_multiple(V* to, const V* from, V factor, int begin, int end) {
  TORCHDET_UNROLL
  for (int j = begin; j < end; ++j) {
    to[j] = fnma(factor, from[j], to[j]);
  }
}

// L^-T K U^-T in place of K, L and U being the unit factors in ldu.
template <typename V>
TORCHDET_LANE void carry_back(const V* ldu, int n, V* k) {
  const int s = tile_stride(n);
  TORCHDET_UNROLL
  for (int r = n - 1; r > 0; --r) {
    TORCHDET_UNROLL
    for (int i = 0; i < r; ++i) {
      subtract_multiple(k + i * s, k + r * s, ldu[r * s + i], 0, n);
    }
  }
  TORCHDET_UNROLL
  for (int i = 0; i < n; ++i) {
    TORCHDET_UNROLL
    for (int r = n - 1; r > 0; --r) {
      const V factor = k[i * s + r];
      TORCHDET_UNROLL
      for (int j = 0; j < r; ++j) {
        k[i * s + j] = fnma(factor, ldu[j * s + r], k[i * s + j]);
      }
    }
  }
}

// Factors of H[Z] and of C, to be added up in one frame: the sum times 2^exponent.
template <typename V>
struct JvpFactors {
  V of_hvp, of_cofactor;
  IntegerOf<V> exponent;

  JvpFactors() = default;
  // What the factors are, H[Z] being 2^z times what is multiplied by the first one.
  TORCHDET_LANE JvpFactors(V hvp, V cofactor, IntegerOf<V> z) {
    const Scaled<V> h = normalise(hvp, z), c = normalise(cofactor, IntegerOf<V>(0));
    const auto exponent_in_use = [](const Scaled<V>& x) TORCHDET_LANE_LAMBDA {
      const auto is_zero = equal(component_size(x.mantissa), RealOf<V>(ScalarOf<V>(0)));
      return select(is_zero, IntegerOf<V>(kZeroExponent), x.exponent);
    };
    exponent = maximum(exponent_in_use(h), exponent_in_use(c));
    of_hvp = scale_pow2(h.mantissa, h.exponent - exponent);
    of_cofactor = scale_pow2(c.mantissa, c.exponent - exponent);
  }
};

// Takes w = P Z Q and the factors of factor_ldu; leaves P^T-and-Q^T-ordered H[Z] / s 2^-e in k, e
// returned; with `jvp` of_hvp H[Z] + of_cofactor C, C = s G^T diag(prod_{k != i} d_k) F^T. w is
// overwritten.
template <typename V>
TORCHDET_LANE IntegerOf<V> cofactor_derivative(const V* ldu, int n, V* w, V* k,
                                               const JvpFactors<V>* jvp = nullptr) {
  const int s = tile_stride(n);
  TORCHDET_UNROLL
  for (int r = 0; r < n; ++r) {  // W = L^-1 (P Z Q) U^-1
    TORCHDET_UNROLL
    for (int i = r + 1; i < n; ++i) {
      subtract_multiple(w + i * s, w + r * s, ldu[i * s + r], 0, n);
    }
  }
  TORCHDET_UNROLL
  for (int i = 0; i < n; ++i) {
    TORCHDET_UNROLL
    for (int r = 0; r < n; ++r) {
      subtract_multiple(w + i * s, ldu + r * s, w[i * s + r], r + 1, n);
    }
  }
  V x[kMaxLaneOrder], y[kMaxLaneOrder];
  const ExclusivePairProducts<V> rho([&](int64_t i) { return ldu[i * s + i]; }, n, x, y);
  TORCHDET_UNROLL
  for (int i = 0; i < n; ++i) {  // (1)
    V diagonal = zero<V>();
    TORCHDET_UNROLL
    for (int j = 0; j < n; ++j) {
      if (j != i) {
        const V product = rho(i, j);
        k[i * s + j] = -(product * w[j * s + i]) * rho.common.mantissa;
        diagonal = fma(product, w[j * s + j], diagonal);
      }
    }
    k[i * s + i] = diagonal * rho.common.mantissa;
  }
  if (jvp != nullptr) {
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) {
        k[i * s + j] = k[i * s + j] * jvp->of_hvp;
      }
      const V others = rho.without(i) * rho.common.mantissa;
      k[i * s + i] = fma(others, jvp->of_cofactor, k[i * s + i]);
    }
  }
  carry_back(ldu, n, k);
  return rho.common.exponent;
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
