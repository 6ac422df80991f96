// A^-1 b and A^-H b for one matrix and one right-hand side, from the factors of A. With the powers
// of two R and C, the permutation P of the rows, and the exchange Q of two columns,
//
//     P (R A C) Q = L U,  so  A^-1 b = C Q U^-1 L^-1 P R b  and  A^-H b = R P^T L^-H U^-H Q C b.
//
// A right-hand side reads each number of the factors once. So memory sets the speed, and plain
// loops over rows reach it.
#pragma once

#include "../../math/scaled.h"
#include "../saved/integers.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <bool kConjugated, typename V>
V conj_if(V x) {
  return kConjugated ? conj(x) : x;
}

// Sum of a_k b_k over neighbours in memory: eight sums, which the compiler puts into packs.
template <typename V>
V dot(const V* a, const V* b, int64_t count) {
  constexpr int kSums = 8;
  V sums[kSums];
  std::fill(sums, sums + kSums, zero<V>());
  int64_t k = 0;
  for (; k + kSums <= count; k += kSums) {
    for (int s = 0; s < kSums; ++s) {
      sums[s] = fma(a[k + s], b[k + s], sums[s]);
    }
  }
  for (; k < count; ++k) {
    sums[0] = fma(a[k], b[k], sums[0]);
  }
  for (int half = kSums / 2; half > 0; half /= 2) {
    for (int s = 0; s < half; ++s) {
      sums[s] = sums[s] + sums[s + half];
    }
  }
  return sums[0];
}

// y -= f a, or f conj(a).
template <bool kConjugated, typename V>
void subtract_multiple(V f, const V* a, V* y, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    y[i] = fnma(f, conj_if<kConjugated>(a[i]), y[i]);
  }
}

// x / pivot: inf or NaN where the pivot is 0.
template <typename V>
V divided(V x, V pivot) {
  if constexpr (kIsComplex<V>) {
    const auto lift = exact_pow2<RealOf<V>>(-exponent_of(component_size(pivot)));
    return x * lift * reciprocal(pivot * lift);
  } else {
    return x / pivot;
  }
}

// The factors of one matrix and the integers that go with them, by elimination with partial
// pivoting; Q is 1. For small n, where the kernels of the size classes would spend their time on
// short packs.
template <typename V>
void factor(const BatchView& A, int64_t b, int64_t n, V* lu, int32_t* integers) {
  using R = RealOf<V>;
  using Integer = IntegerOf<R>;
  const KeptFactors<int32_t> kept(integers, n, b);
  const V* const from = static_cast<const V*>(A.data) + A.offset(b);
  int32_t *const r = kept.row_exponents(), *const c = kept.column_exponents();
  R poison = 0;
  for (int64_t i = 0; i < n; ++i) {
    R largest = 0;
    for (int64_t j = 0; j < n; ++j) {
      const V x = lu[i * n + j] = from[i * A.row_stride + j * A.column_stride];
      largest = maximum(largest, component_size(x));
      poison += component_size(x) * R(0);  // NaN where an entry is not finite
    }
    r[i] = largest > 0 ? static_cast<int32_t>(-exponent_of(largest)) : 0;
    kept.rows()[i] = static_cast<int32_t>(i);
  }
  // Rows and columns have largest entries in [1, 2). Both powers are applied at once, or an entry
  // could vanish on the way.
  constexpr Integer kNone = -(1 << 20);
  for (int64_t j = 0; j < n; ++j) {
    Integer largest = kNone;
    for (int64_t i = 0; i < n; ++i) {
      const R size = component_size(lu[i * n + j]);
      largest = std::max(largest, size > 0 ? exponent_of(size) + r[i] : kNone);
    }
    c[j] = static_cast<int32_t>(largest == kNone || poison != 0 ? 0 : -largest);
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      lu[i * n + j] = scale_pow2(lu[i * n + j], r[i] + c[j]);
    }
  }
  int32_t sign = poison == 0 ? 1 : kNotKept;
  for (int64_t k = 0; k < n; ++k) {
    int64_t p = k;
    for (int64_t i = k + 1; i < n; ++i) {
      p = pivot_size(lu[i * n + k]) > pivot_size(lu[p * n + k]) ? i : p;
    }
    if (p != k) {
      std::swap_ranges(lu + k * n, lu + (k + 1) * n, lu + p * n);
      std::swap(kept.rows()[k], kept.rows()[p]);
      sign = sign == kNotKept ? sign : -sign;
    }
    const V pivot = lu[k * n + k];
    for (int64_t i = k + 1; i < n; ++i) {
      V* const row = lu + i * n;
      row[k] = divided(row[k], pivot);
      subtract_multiple<false>(row[k], lu + k * n + k + 1, row + k + 1, n - k - 1);
    }
  }
  kept.sign() = sign;
  kept.exchanged() = static_cast<int32_t>(n - 1);
}

// A^-1, or A^-H, by the factors.
template <bool kAdjoint, typename V>
class FactoredSystem {
 public:
  // factors, integers: of the whole batch, b: the matrix. seen: space for n integers.
  FactoredSystem(const V* factors, const int32_t* integers, int64_t n, int64_t b, int32_t* seen)
      : lu_(factors + b * n * n), kept_(integers, n, b), n_(n), usable_(kept_.are_usable(seen)) {}

  // x = 2^-e b, scaled and ordered as the factors are. Returns e, for which the largest entry of x
  // is in [1, 2): a b near the largest number would overflow on the way, one near the smallest lose
  // its digits. NaN where nothing is kept: of a matrix that is singular or not finite.
  int32_t enter(const V* b, V* x) const {
    if (!usable_) {
      std::fill(x, x + n_, V(std::numeric_limits<RealOf<V>>::quiet_NaN()));
      return 0;
    }
    constexpr int32_t kNone = std::numeric_limits<int32_t>::min();
    int32_t e = kNone;
    for (int64_t k = 0; k < n_; ++k) {
      const auto size = component_size(b[k]);
      e = size > 0 ? std::max(e, static_cast<int32_t>(exponent_of(size)) + exponent_in(k)) : e;
    }
    e = e == kNone ? 0 : e;
    for (int64_t k = 0; k < n_; ++k) {
      const int64_t i = kAdjoint ? k : kept_.rows()[k];
      x[k] = scale_pow2(b[i], exponent_in(i) - e);
    }
    if (kAdjoint) {
      std::swap(x[kept_.exchanged()], x[n_ - 1]);
    }
    return e;
  }
  // y = 2^e x, in the scale and the order of A. Takes x.
  void leave(V* x, int32_t e, V* y) const {
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
        y[i] = scale_pow2(x[k], kept_.row_exponents()[i] + e);
      } else {
        y[k] = scale_pow2(x[k], kept_.column_exponents()[k] + e);
      }
    }
  }

  // x = U^-1 L^-1 x, or L^-H U^-H x, row by row of the factors.
  void solve(V* x) const {
    if constexpr (kAdjoint) {
      for (int64_t i = 0; i < n_; ++i) {
        x[i] = divided(x[i], conj(row(i)[i]));
        subtract_multiple<true>(x[i], row(i) + i + 1, x + i + 1, n_ - i - 1);
      }
      for (int64_t i = n_ - 1; i > 0; --i) {
        subtract_multiple<true>(x[i], row(i), x, i);
      }
    } else {
      for (int64_t i = 1; i < n_; ++i) {
        x[i] = x[i] + -dot(row(i), x, i);
      }
      for (int64_t i = n_ - 1; i >= 0; --i) {
        const V sum = dot(row(i) + i + 1, x + i + 1, n_ - i - 1);
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
  // What entry i of a right-hand side is scaled by.
  int32_t exponent_in(int64_t i) const {
    return kAdjoint ? kept_.column_exponents()[i] : kept_.row_exponents()[i];
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
