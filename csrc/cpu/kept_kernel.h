// The backward pass with the gradients that the forward pass has kept (kept.h).
#pragma once

#include "kernels.h"
#include "pack.h"
#include "results.h"
#include "row_io.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename P>
struct KeptGradient {
  using T = ScalarOf<P>;
  using R = RealOf<P>;
  using I = IntegerOf<P>;
  using Number = NumberOf<P>;
  using Integer = typename Format<T>::Integer;
  static constexpr int W = LaneTraits<P>::kWidth;

  // kDetBackward and kSlogdetBackward. kFromA: the kernel for the matrices of which nothing is
  // kept, as many as possible at a time.
  template <Kernel kFromA>
  static void from_kept(const Problem& p, int64_t begin, int64_t end) {
    multiply(p, begin, end);
    while (begin < end) {
      int64_t last = begin;
      for (; last < end && kept_exponent(p, last) == kNotKept; ++last) {
      }
      if (last > begin) {
        kFromA(p, begin, last);
      }
      begin = last + 1;
    }
  }

 private:
  // out = grad * kept * 2^integer, for the matrices that have been kept.
  static void multiply(const Problem& p, int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += W) {
      Number factor[W + 1];
      if (first + W > end || !plain_factors(p, first, factor)) {
        for (int64_t b = first; b < std::min(first + W, end); ++b) {
          multiply_one(p, b);
        }
        continue;
      }
      // The numbers of W matrices fill n x n packs, and a pack has numbers of one matrix or two:
      // no store is masked. A masked one would hold up the loads from the matrix behind it.
      static_assert(kLeastKept * kLeastKept >= W);
      const int64_t numbers = p.n * p.n;
      const Number* const from = static_cast<const Number*>(p.kept) + first * numbers;
      Number* const to = result_matrix<P>(p, first);
      int m = 0;
      int64_t left = numbers;  // of matrix m
      for (int64_t k = 0; k < numbers * W; k += W) {
        const auto own = mask_of_bits(left < W ? (uint64_t(1) << left) - 1 : ~uint64_t(0), I());
        const P x = select(own, broadcast<P>(factor[m]), broadcast<P>(factor[m + 1]));
        multiply_pack(from + k, to + k, W, [&](P y) TORCHDET_LANE_LAMBDA { return y * x; });
        const bool ends = left <= W;
        m += ends;
        left += (ends ? numbers : 0) - W;
      }
    }
  }

  // Powers of two below 2^kReach and above 2^-kReach are numbers.
  static constexpr int kReach = Format<T>::kMaxExponent;

  // grad 2^integer of W matrices, and that of the last one again; false unless all are kept and all
  // powers are numbers.
  TORCHDET_LANE static bool plain_factors(const Problem& p, int64_t first,
                                          Number (&factor)[W + 1]) {
    I kept = I(0);
    for (int lane = 0; lane < W; ++lane) {
      kept.raw[lane] = kept_exponent(p, first + lane);
    }
    const auto left = equal(kept, I(kNotKept));
    const Scaled<P> x =
        normalise(Tile<P>::read_numbers(p.other, first, W), select(left, I(0), kept));
    const auto outside =
        mask_or(greater(x.exponent, I(kReach - 1)), greater(I(1 - kReach), x.exponent));
    if (any(mask_or(left, outside))) {
      return false;
    }
    store_numbers(reinterpret_cast<T*>(factor), scale_pow2(x.mantissa, x.exponent), W);
    factor[W] = factor[W - 1];
    return true;
  }

  static void multiply_one(const Problem& p, int64_t b) {
    if (kept_exponent(p, b) == kNotKept) {
      return;
    }
    const Number grad = static_cast<const Number*>(p.other.data)[p.other.offset(b)];
    const Scaled<Number> factor = normalise(grad, Integer(kept_exponent(p, b)));
    if (-kReach < factor.exponent && factor.exponent < kReach) {
      const P x = broadcast<P>(scale_pow2(factor.mantissa, factor.exponent));
      for_packs(p, b, [&](P y) TORCHDET_LANE_LAMBDA { return y * x; });
    } else {
      const P x = broadcast<P>(factor.mantissa);
      const I e = I(factor.exponent);
      for_packs(p, b, [&](P y) TORCHDET_LANE_LAMBDA { return scale_pow2(y * x, e); });
    }
  }

  template <typename Body>
  TORCHDET_LANE static void multiply_pack(const Number* from, Number* to, int64_t count,
                                          Body body) {
    const P y =
        load_numbers(reinterpret_cast<const T*>(from), count, static_cast<const P*>(nullptr));
    store_numbers(reinterpret_cast<T*>(to), body(y), count);
  }

  template <typename Body>
  TORCHDET_LANE static void for_packs(const Problem& p, int64_t b, Body body) {
    const int64_t numbers = p.n * p.n;
    const Number* const from = static_cast<const Number*>(p.kept) + b * numbers;
    Number* const to = result_matrix<P>(p, b);
    for (int64_t k = 0; k < numbers; k += W) {
      multiply_pack(from + k, to + k, numbers - k, body);
    }
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
