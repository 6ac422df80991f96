// Kernels of the class "lane": one matrix per SIMD lane, of an order known at compile time.
//
// Each kernel reads a tile of W matrices, equilibrates it, runs an algorithm of math/ and puts the
// exponents back while writing.
#pragma once

#include "../math/cofactor.h"
#include "../math/logarithm.h"
#include "kept.h"
#include "pack.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename V, int N>
struct LaneKernels {
  using T = ScalarOf<V>;
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  using Io = Tile<V>;
  static constexpr int W = LaneTraits<V>::kWidth;

  // kDet and kSlogdet.
  static void determinants(const Problem& p, int64_t begin, int64_t end) {
    constexpr int n = N;
    V a[tile_size(N)];
    I row_exponent[N], column_exponent[N];
    for (int64_t first = begin; first < end; first += W) {
      const int lanes = static_cast<int>(std::min<int64_t>(W, end - first));
      Io::read(p.A, first, lanes, n, a);
      const Equilibration<V> eq = equilibrate<N>(a, n, row_exponent, column_exponent);
      write_determinants(p, first, lanes, determinant<N>(a), eq);
    }
  }

  // kCofactor: C(A). kDetBackward: grad conj(C(A)). kSlogdetBackward: grad conj(A^-T), with A^-T =
  // C(A) / det(A). kDetKeep and kSlogdetKeep: the determinants, and those gradients without grad
  // and without the exponent that all entries share.
  static void cofactor_matrices(const Problem& p, int64_t begin, int64_t end) {
    constexpr int n = N, s = tile_stride(N);
    V a[tile_size(N)], y[tile_size(N)];
    I row_exponent[N], column[N], column_exponent[N];
    for (int64_t first = begin; first < end; first += W) {
      const int lanes = static_cast<int>(std::min<int64_t>(W, end - first));
      Io::read(p.A, first, lanes, n, a);
      Io::expect_whole(p.out, first + W, n);
      const Equilibration<V> eq =
          equilibrate<N, kCofactorCentral<N, T>>(a, n, row_exponent, column);
      const bool keep = N >= kLeastKept && keeps(p.op);  // costs nothing below
      const bool is_inverse = p.op == (keep ? Op::kSlogdetKeep : Op::kSlogdetBackward);
      const Scaled<V> d = cofactors<N>(a, y, column_exponent, is_inverse || keep);
      // What multiplies the whole matrix, as mantissa and exponent: 2^R or 1 / det, and conj(grad),
      // since grad conj(C) = conj(conj(grad) C).
      Scaled<V> factor = {one<V>(), eq.total};
      if (p.op != Op::kCofactor && !keep) {
        factor = normalise(conj(Io::read_numbers(p.other, first, lanes)), eq.total);
      }
      if (is_inverse) {
        factor.mantissa = factor.mantissa * reciprocal(d.mantissa);
        factor.exponent = factor.exponent - d.exponent - eq.total;
      }
      const I common = keep ? factor.exponent : I(0);
      factor.exponent = factor.exponent - common;
      factor.mantissa = add_poison(factor.mantissa, eq.poison);
      for (int j = 0; j < n; ++j) {
        column_exponent[j] = column_exponent[j] + factor.exponent + column[j];
      }
      KeptRange<V> range;
      const R imaginary_sign = R(p.op == Op::kCofactor ? T(1) : T(-1));
      PairScaling<V>(row_exponent, column_exponent, n)
          .for_entries(n, [&](int i, int j, auto scale) TORCHDET_LANE_LAMBDA {
            const V unscaled = y[i * s + j] * factor.mantissa;
            V x = scale(unscaled);
            if (keep) {
              range.look(unscaled, x);
            }
            if constexpr (kIsComplex<V>) {
              x.im = x.im * imaginary_sign;
            }
            y[i * s + j] = x;
          });
      Io::write_whole(p.out, first, lanes, n, y);
      if (keep) {
        write_determinants(p, first, lanes, d, eq);
        const I integers = select(range.left(), I(kNotKept), common);
        for (int lane = 0; lane < lanes; ++lane) {
          p.integers[first + lane] = static_cast<int32_t>(integers[lane]);
        }
      }
    }
  }

 private:
  // The determinants or their signs and logarithms, from d = det B.
  TORCHDET_LANE static void write_determinants(const Problem& p, int64_t first, int lanes,
                                               Scaled<V> d, const Equilibration<V>& eq) {
    d.exponent = d.exponent + eq.total;
    if (p.logabsdet == nullptr) {
      Io::write_numbers(p.determinant, first, lanes,
                        add_poison(scale_pow2(d.mantissa, d.exponent), eq.poison));
      return;
    }
    d.mantissa = add_poison(d.mantissa, eq.poison);
    const SignAndLog<V> result = sign_and_log(d);
    Io::write_numbers(p.determinant, first, lanes, result.sign);
    Tile<R>::write_numbers(p.logabsdet, first, lanes, result.log);
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
