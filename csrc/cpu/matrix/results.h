// From a factored matrix, one per thread, to the results of the operators.
#pragma once

#include "../../math/hvp.h"
#include "../../math/logarithm.h"
#include "../exponents.h"
#include "equilibrate.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename P>
NumberOf<P>* result_matrix(const Problem& p, int64_t b) {
  return static_cast<NumberOf<P>*>(p.out) + b * p.n * p.n;
}

// Fetches the places of `number` results that are written soon, as Tile::expect_whole does.
template <typename P>
TORCHDET_LANE void expect_results(const Problem& p, int64_t first, int number) {
  const int64_t numbers = number * p.n * p.n;
  if (numbers * static_cast<int64_t>(sizeof(NumberOf<P>)) <= kMostExpected) {
    prefetch(result_matrix<P>(p, first), numbers);
  }
}

// The determinant, its sign and logarithm, or mantissa and exponent, from d = det B.
template <typename P>
void write_determinant(const Problem& p, int64_t b, Scaled<NumberOf<P>> d, const Frame<P>& frame) {
  d.mantissa = add_poison(d.mantissa, frame.poison());
  d.exponent += frame.total;
  NumberOf<P>& to = static_cast<NumberOf<P>*>(p.determinant)[b];
  if (p.logabsdet == nullptr) {
    to = scale_pow2(d.mantissa, d.exponent);
  } else {
    const SignAndLog<NumberOf<P>> result =
        p.op == Op::kDetFrexp ? mantissa_and_exponent(d) : sign_and_log(d);
    to = result.sign;
    static_cast<ScalarOf<P>*>(p.logabsdet)[b] = result.log;
    if (p.op == Op::kDetFrexp) {
      rewrite_exponent<ScalarOf<P>, kIsComplex<P> ? 2 : 1>(p, b);
    }
  }
}

// conj(grad), or 1: what multiplies the whole result, since grad conj(C) = conj(conj(grad) C).
template <typename P>
Scaled<NumberOf<P>> gradient_factor(const Problem& p, int64_t b) {
  using Number = NumberOf<P>;
  if (!multiplies_grad(p.op)) {
    return scaled_one<Number>();
  }
  const Number grad = static_cast<const Number*>(p.other.data)[p.other.offset(b)];
  return normalise(conj(grad), IntegerOf<Number>(0));
}

// The factors of H[Z] and C in kDetBackwardJvp, the conjugate of whose result is what is computed;
// 1 and 0 otherwise.
template <typename P>
JvpFactors<NumberOf<P>> jvp_factors(const Problem& p, int64_t b, IntegerOf<NumberOf<P>> z) {
  using Number = NumberOf<P>;
  if (p.op != Op::kDetBackwardJvp) {
    return {one<Number>(), zero<Number>(), z};
  }
  return {conj(static_cast<const Number*>(p.of_hvp)[b]),
          conj(static_cast<const Number*>(p.of_cofactor)[b]), z};
}

// The results that are multiples of (S B^-1)^T, d being the product of the other pivots, S the last
// one: C(A), grad conj(C(A)), grad conj(A^-T).
template <typename P>
Scaled<NumberOf<P>> result_factor(const Problem& p, int64_t b, Scaled<NumberOf<P>> d, NumberOf<P> S,
                                  const Frame<P>& frame) {
  Scaled<NumberOf<P>> factor = gradient_factor<P>(p, b);
  if (p.op == Op::kSlogdetBackward) {
    const Scaled<NumberOf<P>> last = normalise(S, IntegerOf<ScalarOf<P>>(0));
    factor.mantissa = factor.mantissa * reciprocal(last.mantissa);
    factor.exponent -= last.exponent;
  } else {
    factor.mantissa = factor.mantissa * d.mantissa;
    factor.exponent += d.exponent + frame.total - shift_of<ScalarOf<P>>(p, b);
  }
  return factor;
}

// Where all cofactors are zero, or the matrix has a NaN or an infinity: zeros, or NaN; A^-T does
// not exist.
template <typename P>
[[gnu::noinline]] void fill_without_cofactors(const Problem& p, int64_t b, const Frame<P>& frame) {
  using T = ScalarOf<P>;
  const NumberOf<P> factor = gradient_factor<P>(p, b).mantissa;
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const NumberOf<P> x =
      add_poison(factor * T(0), p.op == Op::kSlogdetBackward ? nan : frame.poison());
  NumberOf<P>* out = result_matrix<P>(p, b);
  std::fill(out, out + p.n * p.n, x);
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
