// psi = sum_k t_k 2^E_k as its sign and logarithm, the derivatives 2^E_k / psi of its logarithm,
// and how a large exponent of a term is shared among its factors, so that both stay in range.
//
// Terms are brought under the largest exponent that one of them has, so psi = p 2^top, where no
// term of p has a component above 1.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <complex>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace torchdet {

template <typename T>
struct RealType {
  using Real = T;
};
template <typename T>
struct RealType<std::complex<T>> {
  using Real = T;
};

template <typename V>
class Logsum {
 public:
  using R = typename RealType<V>::Real;

  // K terms and their exponents. Those are whole numbers; `whole` makes one of any other.
  Logsum(const V* terms, const R* exponents, int64_t count) : exponents_(exponents) {
    for (int64_t k = 0; k < count; ++k) {
      const int e = whole(exponents[k]) + exponent_of(terms[k]);
      top_ = terms[k] == V(0) ? top_ : std::max(top_, e);
    }
    for (int64_t k = 0; k < count; ++k) {
      sum_ += terms[k] == V(0) ? V(0) : scaled(terms[k], whole(exponents[k]) - top_);
    }
  }

  V sign() const {
    if constexpr (std::is_same_v<V, R>) {
      return sum_ > 0 ? R(1) : sum_ < 0 ? R(-1) : sum_;  // NaN, or 0
    } else {
      return sum_ == V(0) ? sum_ : sum_ / std::abs(sum_);
    }
  }
  R logarithm() const {
    constexpr R kLog2 = R(0.693147180559945309417232121458176568);
    const R size = std::abs(sum_);
    return size == 0 ? -std::numeric_limits<R>::infinity() : std::log(size) + R(top_) * kLog2;
  }
  // 2^E_k / psi for all k, at most about 2^kMostRatio unless psi is 0: a term of zero may have any
  // exponent, and its derivatives may be zero too.
  void ratios(V* to, int64_t count) const {
    const int e = exponent_of(sum_);
    const V inverse = V(1) / scaled(sum_, -e);
    for (int64_t k = 0; k < count; ++k) {
      to[k] = scaled(inverse, std::min(whole(exponents_[k]) - top_ - e, kMostRatio));
    }
  }

  // What each of the S factors of a term takes of x = E_k less the exponent of psi, whole numbers.
  // `most` is the largest exponent of a ratio. freedom says how much a factor may take:
  //   0  The factor is not zero. It takes x / S, at most 0, and at least -most / S: then S such
  //      powers of two are in range.
  //   1  The factor is zero, its derivatives are not. For x < 0 the Z such factors of a term take
  //      what those of 0 leave. For the derivative of a zero is multiplied by the other factors: a
  //      share that both took would push the product below the range. For x > 0 they take x / Z
  //      each, or most / (Z + 1) where that is less. The ratio 2^E_k / psi takes the rest, at most
  //      3/4 of most. What is beyond goes to the factors again.
  //   2  The factor is zero, as its derivatives are. Such factors share x, and leave nothing to
  //      those of 1.
  // x counts as 0 up to a quarter of the range, and as -most where psi is 0 or not finite.
  void shares(const R* freedom, int64_t S, R* share, int64_t count) const {
    const bool decides = sum_ != V(0) && sum_ - sum_ == V(0);
    const int of_sum = top_ + exponent_of(sum_);
    constexpr R kMost = kMostRatio;
    for (int64_t k = 0; k < count; ++k) {
      int whole_x = decides ? whole(exponents_[k]) - of_sum : -kMostRatio;
      const R x = R(std::abs(whole_x) <= kBias / 4 ? 0 : whole_x);
      const R* const own = freedom + k * S;
      const R zeros = R(std::count(own, own + S, R(1))), inert = R(std::count(own, own + S, R(2)));
      const R of_others = std::clamp(std::floor(x / R(S)), R(-(kMostRatio / S)), R(0));
      const R with_limit = std::max(std::min(x, kMost * zeros / (zeros + 1)), x - kMost * R(0.75));
      const R left = x > 0 ? with_limit : x - of_others * (R(S) - zeros);
      const R of_zero = inert > 0 ? R(0) : std::floor(left / zeros);
      for (int64_t s = 0; s < S; ++s) {
        share[k * S + s] = own[s] == 2 ? std::floor(x / inert) : own[s] == 1 ? of_zero : of_others;
      }
    }
  }
  // m 2^h and e - h for a share h, or for the nearest whole number from -kMostRatio to 0; for m = 0
  // any share is in range.
  static void take_share(V& m, R& e, R share) {
    const int h = std::min(std::max(whole(share), -kMostRatio), 0);
    e -= m == V(0) ? share : R(h);
    m = scaled(m, h);
  }

 private:
  static constexpr int kLowest = -(1 << 28), kBias = std::numeric_limits<R>::max_exponent - 1;
  static constexpr int kMostRatio = kBias - 1;
  const R* const exponents_;
  int top_ = kLowest;
  V sum_ = V(0);

  static int whole(R e) {
    constexpr R kMost = 1 << 24;
    return e != e ? 0 : static_cast<int>(std::min(std::max(e, -kMost), kMost));
  }

  // Bits instead of calls of the mathematical library for all but the ends of the range.
  using Bits = std::conditional_t<std::is_same_v<R, float>, uint32_t, uint64_t>;
  static constexpr int kFractionBits = std::numeric_limits<R>::digits - 1;
  // e with |x| in [1/2, 1) 2^e, of the larger component; 0 for zero, infinity and NaN.
  static int exponent_of(R x) {
    const int field = static_cast<int>(std::bit_cast<Bits>(x) >> kFractionBits) & (2 * kBias + 1);
    if (field != 0 && field != 2 * kBias + 1) {
      return field - kBias + 1;
    }
    int e = 0;
    if (std::isfinite(x)) {
      std::frexp(x, &e);
    }
    return e;
  }
  static int exponent_of(std::complex<R> x) {
    const R size = std::max(std::abs(x.real()), std::abs(x.imag()));
    return x.real() - x.real() == 0 && x.imag() - x.imag() == 0 ? exponent_of(size) : 0;
  }
  static R scaled(R x, int e) {
    if (std::abs(e) < kBias) {
      return x * std::bit_cast<R>(static_cast<Bits>(e + kBias) << kFractionBits);
    }
    return std::ldexp(x, e);
  }
  static std::complex<R> scaled(std::complex<R> x, int e) {
    return {scaled(x.real(), e), scaled(x.imag(), e)};
  }
};

}  // namespace torchdet
