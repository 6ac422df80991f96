// Kernels of the class "lane": one matrix per SIMD lane, of an order known at compile time.
//
// Each kernel reads a tile of W matrices, equilibrates it, runs an algorithm of math/ and puts the
// exponents back while writing.
#pragma once

#include "../../math/cofactor.h"
#include "../../math/logarithm.h"
#include "../../problem.h"
#include "../../select.h"
#include "../exponents.h"
#include "../gradient_and_inverse.h"
#include "../simd/tile.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// The steps of a kernel that are the same for all orders.
template <typename V>
struct LaneSteps {
  using R = RealOf<V>;
  using I = IntegerOf<V>;

  TORCHDET_LANE static void read(const BatchView& view, int64_t first, int lanes, int n, V* tile) {
    Tile<V>::read(view, first, lanes, n, tile);
  }
  TORCHDET_LANE static void write_rows(void* out, int64_t first, int lanes, int n, const V* tile,
                                       const I* row_index) {
    Tile<V>::write_rows(out, first, lanes, n, tile, row_index);
  }
  // The determinants, their signs and logarithms, or mantissas and exponents, from d = det B.
  TORCHDET_LANE static void write_determinants(const Problem& p, int64_t first, int lanes,
                                               Scaled<V> d, const Equilibration<V>& eq) {
    d.exponent = d.exponent + eq.total;
    if (p.logabsdet == nullptr) {
      Tile<V>::write_numbers(p.determinant, first, lanes,
                             add_poison(scale_pow2(d.mantissa, d.exponent), eq.poison));
      return;
    }
    d.mantissa = add_poison(d.mantissa, eq.poison);
    const SignAndLog<V> result = p.op == Op::kDetFrexp ? mantissa_and_exponent(d) : sign_and_log(d);
    Tile<V>::write_numbers(p.determinant, first, lanes, result.sign);
    Tile<R>::write_numbers(p.logabsdet, first, lanes, result.log);
    if (p.op == Op::kDetFrexp) {
      for (int64_t b = first; b < first + lanes; ++b) {
        rewrite_exponent<ScalarOf<V>, kIsComplex<V> ? 2 : 1>(p, b);
      }
    }
  }
};

// The same out of line: one copy for all orders whose work outweighs a call.
template <typename V>
struct SharedLaneSteps {
  using S = LaneSteps<V>;
  [[gnu::noinline]] static void read(const BatchView& view, int64_t first, int lanes, int n,
                                     V* tile) {
    S::read(view, first, lanes, n, tile);
  }
  [[gnu::noinline]] static void write_rows(void* out, int64_t first, int lanes, int n,
                                           const V* tile, const IntegerOf<V>* row_index) {
    S::write_rows(out, first, lanes, n, tile, row_index);
  }
  [[gnu::noinline]] static void write_determinants(const Problem& p, int64_t first, int lanes,
                                                   const Scaled<V>& d, const Equilibration<V>& eq) {
    S::write_determinants(p, first, lanes, d, eq);
  }
};

template <typename V, int N>
struct LaneKernels {
  using T = ScalarOf<V>;
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  using Steps = std::conditional_t<(N <= kLargestOwnSteps), LaneSteps<V>, SharedLaneSteps<V>>;
  static constexpr int W = LaneTraits<V>::kWidth;

  // kDet, kSlogdet and kDetFrexp.
  static void determinants(const Problem& p, int64_t begin, int64_t end) {
    constexpr int n = N;
    V a[tile_size(N)];
    R weight[N];
    I row_exponent[N], column_exponent[N];
    for (int64_t first = begin; first < end; first += W) {
      const int lanes = static_cast<int>(std::min<int64_t>(W, end - first));
      Steps::read(p.A, first, lanes, n, a);
      const Equilibration<V> eq = equilibrate<N>(a, n, row_exponent, column_exponent, weight);
      const Determinant<N, V> d(a, weight);
      if (d.is_plain() && eq.is_identity && p.logabsdet == nullptr) {
        Tile<V>::write_numbers(p.determinant, first, lanes, d.plain());
      } else if (N <= 2 && p.logabsdet == nullptr) {
        // The determinant is computed as that of a balanced matrix: a mantissa and exponent would
        // lose bits of a complex number that has a subnormal part.
        Tile<V>::write_numbers(p.determinant, first, lanes,
                               add_poison(scale_pow2(d.plain(), eq.total), eq.poison));
      } else {
        Steps::write_determinants(p, first, lanes, d.scaled(), eq);
      }
    }
  }

  // kCofactor: C(A). kDetBackward: grad conj(C(A)). kSlogdetBackward: grad conj(A^-T), with A^-T =
  // C(A) / det(A), and conj(A^-T) as well where Problem::inverse asks for that.
  static void cofactor_matrices(const Problem& p, int64_t begin, int64_t end) {
    if constexpr (N < kLeastBothResults) {
      write_cofactors<GradientAlone>(p, begin, end);
    } else if (N >= kLeastLoopOverResults || p.inverse != nullptr) {
      write_cofactors<GradientAndInverse<V>>(p, begin, end);
    } else {
      write_cofactors<GradientAlone>(p, begin, end);
    }
  }

 private:
  template <typename Results>
  [[gnu::noinline]] static void write_cofactors(const Problem& p, int64_t begin, int64_t end) {
    constexpr int n = N, s = tile_stride(N);
    // Whether rows find their places in registers; else they do so on their way to memory.
    constexpr bool kRestored = !kHasClosedForm<N, V> && N < kLeastRowsApart && !kIsComplex<V>;
    constexpr bool kInOrder = kHasClosedForm<N, V> || kRestored;
    V a[tile_size(N)], x[tile_size(N)];
    V(&source)[tile_size(N)] = kRestored ? a : x;
    V(&target)[tile_size(N)] = kRestored ? x : a;
    R weight[N];
    I row_exponent[N], column_exponent[N], cofactor_exponent[N], row_index[N];
    const Results results(p);
    for (int64_t first = begin; first < end; first += W) {
      const int lanes = static_cast<int>(std::min<int64_t>(W, end - first));
      Steps::read(p.A, first, lanes, n, a);
      Tile<V>::expect_whole(p.out, first + W, n);
      const Equilibration<V> eq =
          equilibrate<N, kCofactorCentral<N, T>>(a, n, row_exponent, column_exponent, weight);
      const bool is_inverse = p.op == Op::kSlogdetBackward;
      const auto [d, has_exponents] =
          cofactors<N>(a, weight, x, row_index, cofactor_exponent, is_inverse);
      if constexpr (kRestored) {
        restore_rows<N>(row_index, x, a);
      }
      const auto write = [&](const Problem& result) TORCHDET_LANE_LAMBDA {
        // What multiplies the whole matrix, as mantissa and exponent: conj(grad), since grad
        // conj(C) = conj(conj(grad) C); and 2^eq.total 2^-shift for cofactors, 1 / det B for the
        // inverse.
        Scaled<V> factor = {one<V>(), eq.total};
        if (multiplies_grad(p.op)) {
          factor = normalise(conj(Tile<V>::read_numbers(result.other, first, lanes)), eq.total);
        }
        if (is_inverse) {
          factor.mantissa = factor.mantissa * reciprocal(d.mantissa);
          factor.exponent = factor.exponent - d.exponent - eq.total;
        }
        factor.exponent = factor.exponent - shifts_of<V>(p, first, lanes);
        factor.mantissa = add_poison(factor.mantissa, eq.poison);
        const R imaginary_sign = R(p.op == Op::kCofactor ? T(1) : T(-1));
        const auto finish = [&](int i, int j, auto scale) TORCHDET_LANE_LAMBDA {
          V y = scale(source[i * s + j] * factor.mantissa);
          if constexpr (kIsComplex<V>) {
            y.im = y.im * imaginary_sign;
          }
          target[i * s + j] = y;
        };
        if (eq.is_identity && !has_exponents && is_factor<R>(factor.exponent)) {
          const R power = exact_pow2<R>(factor.exponent);
          for (int i = 0; i < n; ++i) {
            for (int j = 0; j < n; ++j) {
              finish(i, j, [&](V y) TORCHDET_LANE_LAMBDA { return y * power; });
            }
          }
        } else {
          I of_column[N], permuted[N];
          for (int j = 0; j < n; ++j) {
            of_column[j] = cofactor_exponent[j] + factor.exponent + column_exponent[j];
          }
          if constexpr (!kInOrder) {
            permute_labels<N>(row_index, row_exponent, permuted);
          }
          PairScaling<V>(kInOrder ? row_exponent : permuted, of_column, n).for_entries(n, finish);
        }
        if constexpr (kInOrder) {
          Tile<V>::write_whole(result.out, first, lanes, n, target);
        } else {
          Steps::write_rows(result.out, first, lanes, n, target, row_index);
        }
      };
      for (const Problem* result : results) {
        write(*result);
      }
    }
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
