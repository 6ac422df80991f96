// First and second derivatives of det along a direction Z, exact at every rank:
//     D det(B)[Z] = det B tr(B^-1 Z),   D^2 det(B)[Z, Z] / 2 = det B e(B^-1 Z),
// where e(M) = sum_{i<j} (M_ii M_jj - M_ij M_ji) is the sum of the principal minors of order 2.
//
// In the notation of hvp.h, with p and q the two smallest pivots, |p| <= |q|, m the product of the
// others, f_k the columns of F and g_k^T the rows of G:
//     det B = s m p q,   B^-1 = (T + f_p g_p^T q / p) / q,   T = sum_{k != p} f_k g_k^T q / d_k.
// With N = T Z, f = f_p, v^T = g_p^T Z and r = p / q, all terms with 1 / p cancel, since f v^T has
// rank 1, which leaves
//     D det[Z] = s m q (r tr N + sum_i f_i v_i),                                                (1)
//     D^2 det[Z, Z] / 2 = s m (r e(N) + sum_{i != j} (N_ii f_j v_j - N_ij f_j v_i)).            (2)
// The quotients q / d_k and r have moduli of at most 1, and 0 / 0 counts as 0.
//
// det is linear in each column. So no term of (2) has two entries of one column of Z, and a column
// that is much larger than the others costs no digit, as one is where a column of A is tiny beside
// its direction: B is A after equilibration. With A^T, Z^T and T^T, f and g exchanged, the same is
// true of a row. Whichever stands out more, a row or a column, decides (JetScales).
#pragma once

#include "hvp.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// The exponents of the two largest of some vectors.
template <typename I>
class TwoLargest {
 public:
  TORCHDET_LANE TwoLargest() : first_(I(kZeroExponent)), second_(I(kZeroExponent)) {}
  TORCHDET_LANE void add(I exponent) {
    second_ = maximum(second_, minimum(first_, exponent));
    first_ = maximum(first_, exponent);
  }
  // By how many powers of two the largest exceeds the second.
  TORCHDET_LANE I gap() const { return first_ - maximum(second_, I(kZeroExponentBound)); }
  // Of a factor for all vectors, after which products of these two are of size 1, and the larger
  // one is far from the ends of the format T. 0 where all are zero.
  template <typename T>
  TORCHDET_LANE I common() const {
    constexpr int kMost = Format<T>::kMaxExponent / 2;
    const I shared = first_ - minimum(gap() >> 1, I(kMost));
    return select(greater(I(kZeroExponentBound), first_), I(0), shared);
  }

 private:
  I first_, second_;
};

// How Z is taken: scaled by 2^-exponent, and as its transpose where a row stands out.
template <typename I>
struct JetScales {
  decltype(greater(I(), I())) transposed;
  I exponent;

  // T: the format of the numbers. Every direction is scaled. It is transposed only where a row
  // stands out by 2^kStandsOut more than a column does; most are not.
  template <typename T>
  TORCHDET_LANE static JetScales of(const TwoLargest<I>& rows, const TwoLargest<I>& columns) {
    constexpr int kStandsOut = 8;
    const auto transposed = greater(rows.gap(), columns.gap() + I(kStandsOut));
    return {transposed,
            select(transposed, rows.template common<T>(), columns.template common<T>())};
  }
};

// What (1) and (2) take of a direction.
template <typename V>
struct JetTerms {
  V trace, minors;    // tr N, e(N)
  V trace_fv, mixed;  // sum_i f_i v_i and the second sum of (2)

  TORCHDET_LANE JetTerms()
      : trace(zero<V>()), minors(zero<V>()), trace_fv(zero<V>()), mixed(zero<V>()) {}

  // The terms of the diagonals, i by i: those of i and all j < i, so that no square is ever added.
  TORCHDET_LANE void add_diagonal(V n_ii, V fv_i) {
    minors = fma(n_ii, trace, minors);
    mixed = fma(n_ii, trace_fv, fma(fv_i, trace, mixed));
    trace = trace + n_ii;
    trace_fv = trace_fv + fv_i;
  }
};

// m, m q and r of (1) and (2); the sign s is left to the kernels.
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
    return {mq.mantissa * fma(r, x.trace, x.trace_fv), mq.exponent};
  }
  TORCHDET_LANE Scaled<V> second(const JetTerms<V>& x) const {
    using R = RealOf<V>;
    return {m.mantissa * fma(r, x.minors, x.mixed) * R(ScalarOf<V>(2)), m.exponent};
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
