// Kernels of the class "thread": one matrix per thread, in registers, of an order known at compile
// time. A warp owns 32 neighbouring matrices.
//
// Most matrices take the short way (thread/algorithms.h). Where one of a warp does not, the warp
// reads its matrices again and takes the general way too, that of the CPU's lanes (math/) with one
// number to a lane; each thread keeps the result that its own matrix asks for.
#pragma once

#include "algorithms.h"
#include "matrices.h"

#include "../../math/hvp_closed.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename V, int N>
struct ThreadKernel {
  using Matrices = ThreadMatrices<V, N>;
  static constexpr int kThreads = Matrices::kThreads, kBlocksPerSm = sizeof(V) == 4 ? 4 : 2;
  static constexpr int64_t kMatricesPerBlock = kThreads;
  static constexpr Memory kMemory = Memory::kShared;
  static size_t block_bytes(int64_t) { return Matrices::kSharedBytes; }
};

// kDet and kSlogdet.
template <typename V, int N>
struct ThreadDeterminants : ThreadKernel<V, N> {
  TORCHDET_DEVICE static void run(const Problem& p) {
    ThreadMatrices<V, N> matrices(p);
    matrices.apply([&](int64_t b) {
      V a[N * N];
      matrices.read(p.A, b, a);
      V value = zero<V>();
      const bool is_plain = plain_determinant<N>(a, value);
      if (matrices.writes() && is_plain) {
        if (p.op == Op::kDet) {
          static_cast<V*>(p.determinant)[b] = value;
        } else {
          write_determinant(p, b, normalise(value, IntegerOf<V>(0)));
        }
      }
      if (any_in_warp(!is_plain)) {
        IntegerOf<V> row[N], column[N];
        RealOf<V> weight[N];
        matrices.read_entries(p.A, b, a);
        const Equilibration<V> eq = equilibrate<N>(a, N, row, column, weight);
        Scaled<V> d = Determinant<N, V>(a, weight).scaled();
        d.mantissa = add_poison(d.mantissa, eq.poison);
        d.exponent = d.exponent + eq.total;
        if (matrices.writes() && !is_plain) {
          write_determinant(p, b, d);
        }
      }
    });
  }
};

// kCofactor: C(A). kDetBackward: grad conj(C(A)). kSlogdetBackward: grad conj(A^-T).
template <typename V, int N>
struct ThreadCofactors : ThreadKernel<V, N> {
  TORCHDET_DEVICE static void run(const Problem& p) {
    ThreadMatrices<V, N> matrices(p);
    matrices.apply([&](int64_t b) {
      V a[N * N], y[N * N];
      int row_index[N];  // row k of y is row row_index[k] of the result
      matrices.read(p.A, b, a);
      V factor = one<V>();
      if (p.op != Op::kCofactor) {
        factor = conj(gradient<V>(p, b));
      }
      const bool is_plain =
          plain_cofactors<N>(a, p.op == Op::kSlogdetBackward, factor, y, row_index);
      matrices.put(
          [&](int t) {
            const V x = y[t] * factor;
            return p.op == Op::kCofactor ? x : conj(x);
          },
          [&](int t) { return row_index[t / N] * N + t % N; });
      if (any_in_warp(!is_plain)) {
        general(p, b, a, y, row_index);
        if (!is_plain) {
          matrices.put([&](int t) { return y[t]; },
                       [&](int t) { return row_index[t / N] * N + t % N; });
        }
      }
      matrices.write();
    });
  }

 private:
  // Row k of y is row row_index[k] of the result. a is overwritten.
  TORCHDET_DEVICE static void general(const Problem& p, int64_t b, V* a, V* y, int* row_index) {
    using I = IntegerOf<V>;
    I row[N], column[N], column_exponent[N], index[N], row_exponent[N];
    RealOf<V> weight[N];
    ThreadMatrices<V, N>::read_entries(p.A, b, a);
    const Equilibration<V> eq =
        equilibrate<N, kCofactorCentral<N, ScalarOf<V>>>(a, N, row, column, weight);
    const bool wants_determinant = p.op == Op::kSlogdetBackward;
    TORCHDET_UNROLL
    for (int k = 0; k < N; ++k) {
      index[k] = I(k);
    }
    const Scaled<V> d =
        cofactors<N>(a, weight, y, index, column_exponent, wants_determinant).determinant;
    permute_labels<N>(index, row, row_exponent);
    const Scaled<V> factor = gradient_factor(p, b, d, eq.total);
    TORCHDET_UNROLL
    for (int j = 0; j < N; ++j) {
      column_exponent[j] = column_exponent[j] + factor.exponent + column[j];
    }
    TORCHDET_UNROLL
    for (int k = 0; k < N; ++k) {
      row_index[k] = static_cast<int>(index[k]);
      TORCHDET_UNROLL
      for (int j = 0; j < N; ++j) {
        const V x =
            scale_pow2(y[k * N + j] * factor.mantissa, row_exponent[k] + column_exponent[j]);
        y[k * N + j] = add_poison(p.op == Op::kCofactor ? x : conj(x), eq.poison);
      }
    }
  }
};

// kDetHvp. For n <= 2 the derivative does not depend on B.
template <typename V, int N>
struct ThreadHvp : ThreadKernel<V, N> {
  TORCHDET_DEVICE static void run(const Problem& p) {
    ThreadMatrices<V, N> matrices(p);
    matrices.apply([&](int64_t b) {
      V a[N * N], z[N * N], h[N * N];
      IntegerOf<V> row[N], column[N];
      matrices.read(p.A, b, a);
      matrices.read(p.other, b, z);
      const Equilibration<V> eq = equilibrate<N>(a, N, row, column);
      if constexpr (N <= 2) {
        cofactor_derivative_closed<N>(a, z, h);
        TORCHDET_UNROLL
        for (int t = 0; t < N * N; ++t) {
          h[t] = add_poison(h[t], eq.poison);
        }
      } else {
        DirectionScaling<V> scaling(z, N, row, column);
        cofactor_derivative_closed<N>(a, z, h);
        scaling.restore(h, RealOf<V>(1), eq.total, eq.poison);
      }
      matrices.put([&](int t) { return h[t]; }, [](int t) { return t; });
      matrices.write();
    });
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
