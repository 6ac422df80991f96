// X = A^-1 B and A^-H B for one matrix and one right-hand side, from what a factorisation of A
// leaves (torchdet/_factored.py has both forms and the formulas). Each number of the matrix is used
// once for a right-hand side, so memory sets the speed, and plain loops over rows reach it.
#pragma once

#include "../../math/scaled.h"
#include "../saved/integers.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// A matrix, or a vector, where it lies: number (i, j) at data[i * row_stride + j * column_stride].
template <typename V>
struct Strided {
  const V* data;
  int64_t row_stride, column_stride;
  Strided transposed() const { return {data, column_stride, row_stride}; }
};

template <bool kConjugated, typename V>
V conj_if(V x) {
  return kConjugated ? conj(x) : x;
}

// Sum of a_k b_k, or conj(a_k) b_k, over neighbours in memory: eight sums, which the compiler puts
// into packs.
template <bool kConjugated, typename V>
V dot(const V* a, const V* b, int64_t count) {
  constexpr int kSums = 8;
  V sums[kSums];
  std::fill(sums, sums + kSums, zero<V>());
  int64_t k = 0;
  for (; k + kSums <= count; k += kSums) {
    for (int s = 0; s < kSums; ++s) {
      sums[s] = fma(conj_if<kConjugated>(a[k + s]), b[k + s], sums[s]);
    }
  }
  for (; k < count; ++k) {
    sums[0] = fma(conj_if<kConjugated>(a[k]), b[k], sums[0]);
  }
  for (int half = kSums / 2; half > 0; half /= 2) {
    for (int s = 0; s < half; ++s) {
      sums[s] = sums[s] + sums[s + half];
    }
  }
  return sums[0];
}

// y += f a, or f conj(a).
template <bool kConjugated, typename V>
void add_multiple(V f, const V* a, int64_t stride, V* y, int64_t count) {
  if (stride == 1) {
    for (int64_t i = 0; i < count; ++i) {
      y[i] = fma(f, conj_if<kConjugated>(a[i]), y[i]);
    }
  } else {
    for (int64_t i = 0; i < count; ++i) {
      y[i] = fma(f, conj_if<kConjugated>(a[i * stride]), y[i]);
    }
  }
}

// y = M x, or conj(M) x.
template <bool kConjugated, typename V>
void multiply(const Strided<V>& M, int64_t n, const V* x, V* y) {
  if (M.column_stride == 1) {
    for (int64_t i = 0; i < n; ++i) {
      y[i] = dot<kConjugated>(M.data + i * M.row_stride, x, n);
    }
    return;
  }
  std::fill(y, y + n, zero<V>());
  for (int64_t j = 0; j < n; ++j) {
    add_multiple<kConjugated>(x[j], M.data + j * M.column_stride, M.row_stride, y, n);
  }
}

template <typename V>
bool is_finite(V x) {
  using R = RealOf<V>;
  const auto zero_or_nan = [](R y) { return y - y == R(0); };
  if constexpr (kIsComplex<V>) {
    return zero_or_nan(x.re) && zero_or_nan(x.im);
  } else {
    return zero_or_nan(x);
  }
}

// x = A^-1 b, or A^-H b, from inverse = conj(A^-T): a product, and one step of refinement. space: n
// numbers each.
template <bool kAdjoint, typename V>
void solve_by_inverse(const Strided<V>& A, const V* inverse, int64_t n, const V* b, V* x, V* space,
                      V* correction) {
  const Strided<V> F = {inverse, n, 1};
  const auto apply = [&](const V* from, V* to) {
    kAdjoint ? multiply<false>(F, n, from, to) : multiply<true>(F.transposed(), n, from, to);
  };
  apply(b, x);
  kAdjoint ? multiply<true>(A.transposed(), n, x, space) : multiply<false>(A, n, x, space);
  for (int64_t i = 0; i < n; ++i) {
    space[i] = b[i] + -space[i];
  }
  apply(space, correction);
  for (int64_t i = 0; i < n; ++i) {
    // Where A x leaves the range, x is what there is.
    x[i] = is_finite(correction[i]) ? x[i] + correction[i] : x[i];
  }
}

// A^-1 and A^-H by the factors of P (R A C) Q = L U.
template <bool kAdjoint, typename V>
class FactoredSystem {
 public:
  // seen: space for n integers.
  FactoredSystem(const V* factors, const int32_t* integers, int64_t n, int64_t b, int32_t* seen)
      : lu_(factors + b * n * n), kept_(integers, n, b), n_(n), usable_(kept_.are_usable(seen)) {}

  // x = b, scaled and ordered as the factors are. Nothing is kept of a matrix of rank n - 2 or
  // less, nor of one with an entry that is not finite: NaN.
  void enter(const V* b, V* x) const {
    for (int64_t k = 0; k < n_; ++k) {
      if (!usable_) {
        x[k] = V(std::numeric_limits<RealOf<V>>::quiet_NaN());
      } else if (kAdjoint) {
        x[k] = scale_pow2(b[k], kept_.column_exponents()[k]);
      } else {
        const int32_t i = kept_.rows()[k];
        x[k] = scale_pow2(b[i], kept_.row_exponents()[i]);
      }
    }
    if (usable_ && kAdjoint) {
      std::swap(x[kept_.exchanged()], x[n_ - 1]);
    }
  }
  // y = x, in the scale and the order of A. Takes x.
  void leave(V* x, V* y) const {
    if (!usable_) {
      std::copy(x, x + n_, y);
      return;
    }
    if (!kAdjoint) {
      std::swap(x[kept_.exchanged()], x[n_ - 1]);
    }
    for (int64_t k = 0; k < n_; ++k) {
      if (kAdjoint) {
        const int32_t i = kept_.rows()[k];
        y[i] = scale_pow2(x[k], kept_.row_exponents()[i]);
      } else {
        y[k] = scale_pow2(x[k], kept_.column_exponents()[k]);
      }
    }
  }

  // x = U^-1 L^-1 x, or L^-H U^-H x, row by row of the factors.
  void solve(V* x) const {
    if constexpr (kAdjoint) {
      for (int64_t i = 0; i < n_; ++i) {
        x[i] = divided(x[i], conj(row(i)[i]));
        add_multiple<true>(-x[i], row(i) + i + 1, 1, x + i + 1, n_ - i - 1);
      }
      for (int64_t i = n_ - 1; i > 0; --i) {
        add_multiple<true>(-x[i], row(i), 1, x, i);
      }
    } else {
      for (int64_t i = 1; i < n_; ++i) {
        x[i] = x[i] + -dot<false>(row(i), x, i);
      }
      for (int64_t i = n_ - 1; i >= 0; --i) {
        const V sum = dot<false>(row(i) + i + 1, x + i + 1, n_ - i - 1);
        x[i] = divided(x[i] + -sum, row(i)[i]);
      }
    }
  }

 private:
  const V* lu_;
  KeptFactors<const int32_t> kept_;
  int64_t n_;
  bool usable_;

  const V* row(int64_t i) const { return lu_ + i * n_; }
  static V divided(V x, V pivot) {
    if constexpr (kIsComplex<V>) {
      const auto lift = exact_pow2<RealOf<V>>(-exponent_of(component_size(pivot)));
      return x * lift * reciprocal(pivot * lift);
    } else {
      return x / pivot;
    }
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
