// The backward pass with the gradients that the forward pass has kept (kept.h).
#pragma once

#include "results.h"
#include "row_io.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename P>
struct KeptKernel {
  using T = ScalarOf<P>;
  using R = RealOf<P>;
  using I = IntegerOf<P>;
  using Number = NumberOf<P>;
  using Integer = typename Format<T>::Integer;
  static constexpr int W = LaneTraits<P>::kWidth;

  // Powers of two below 2^kReach and above 2^-kReach are numbers.
  static constexpr int kReach = Format<T>::kMaxExponent;

  // out = grad * kept * 2^integer, for the matrices that have been kept.
  static void multiply(const Problem& p, int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      if (p.integers[b] == kNotKept) {
        continue;
      }
      const Number grad = static_cast<const Number*>(p.other.data)[p.other.offset(b)];
      const Scaled<Number> factor = normalise(grad, Integer(p.integers[b]));
      if (-kReach < factor.exponent && factor.exponent < kReach) {
        const P x = broadcast<P>(scale_pow2(factor.mantissa, factor.exponent));
        for_packs(p, b, [&](P y) TORCHDET_LANE_LAMBDA { return y * x; });
      } else {
        const P x = broadcast<P>(factor.mantissa);
        const I e = I(factor.exponent);
        for_packs(p, b, [&](P y) TORCHDET_LANE_LAMBDA { return scale_pow2(y * x, e); });
      }
    }
  }

 private:
  template <typename Body>
  TORCHDET_LANE static void for_packs(const Problem& p, int64_t b, Body body) {
    const int64_t numbers = p.n * p.n;
    const Number* const from = static_cast<const Number*>(p.kept) + b * numbers;
    Number* const to = result_matrix<P>(p, b);
    for (int64_t k = 0; k < numbers; k += W) {
      const P y = load_numbers(reinterpret_cast<const T*>(from + k), numbers - k,
                               static_cast<const P*>(nullptr));
      store_numbers(reinterpret_cast<T*>(to + k), body(y), numbers - k);
    }
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
