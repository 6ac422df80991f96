// First and second derivatives of det along a direction Z, exact at every rank:
//     D det(B)[Z] = det B tr(B^-1 Z),   D^2 det(B)[Z, Z] = det B (tr(B^-1 Z)^2 - tr((B^-1 Z)^2)).
//
// In the notation of hvp.h, with p and q the two smallest pivots, |p| <= |q|, m the product of the
// others, f_k the columns of F and g_k^T the rows of G:
//     det B = s m p q,   B^-1 = (Y + f_q g_q^T + f_p g_p^T q / p) / q,   Y = sum f_k g_k^T q / d_k
// over the other k. With N = Y Z, t = tr N, a_ij = g_i^T Z f_j and b_i = g_i^T Z N f_i, all terms
// with 1 / p or 1 / q cancel, which leaves, with r = p / q,
//     D det[Z] = s m q (r (t + a_qq) + a_pp),                                                   (1)
//     D^2 det[Z, Z] / 2 = s m (r ((t^2 - tr(N N)) / 2 + t a_qq - b_q)
//                              + t a_pp - b_p + a_pp a_qq - a_pq a_qp).                         (2)
// The quotients q / d_k and r have moduli of at most 1, and 0 / 0 counts as 0.
#pragma once

#include "hvp.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// What (1) and (2) take of a direction.
template <typename V>
struct JetTerms {
  V t, t_of_square;  // tr N, tr(N N)
  V a_pp, a_pq, a_qp, a_qq, b_p, b_q;
};

// m, q and r; without the sign s.
template <typename V>
struct JetFactors {
  Scaled<V> m, mq;
  V r;

  template <typename Products>
  TORCHDET_LANE explicit JetFactors(const Products& rho)
      : m(rho.common),
        mq(rho.common * rho.second_smallest_pivot()),
        r(PivotQuotient<V>(rho.second_smallest_pivot())(rho.smallest_pivot())) {}

  TORCHDET_LANE Scaled<V> first(const JetTerms<V>& x) const {
    return {mq.mantissa * fma(r, x.t + x.a_qq, x.a_pp), mq.exponent};
  }
  TORCHDET_LANE Scaled<V> second(const JetTerms<V>& x) const {
    using R = RealOf<V>;
    const V half = fnma(one<V>(), x.t_of_square, x.t * x.t) * R(ScalarOf<V>(0.5));
    const V of_r = half + fma(x.t, x.a_qq, -x.b_q);
    const V rest = fma(x.t, x.a_pp, -x.b_p) + fnma(x.a_pq, x.a_qp, x.a_pp * x.a_qq);
    return {m.mantissa * fma(r, of_r, rest) * R(ScalarOf<V>(2)), m.exponent};
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
