// Kernels of the class "thread": one matrix per thread, in registers, of an order known at compile
// time. A warp owns 32 neighbouring matrices.
//
// Most matrices take the short way (thread_algorithms.h). Where one of a warp does not, the warp
// reads its matrices again and takes the general way too, that of the CPU's lanes (math/) with one
// number to a lane; each thread keeps the result that its own matrix asks for.
#pragma once

#include "thread_algorithms.h"
#include "thread_matrices.h"

#include "../math/hvp.h"

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
        matrices.read_entries(p.A, b, a);
        const Equilibration<V> eq = equilibrate<N>(a, N, row, column);
        Scaled<V> d = determinant<N>(a);
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
        factor = conj(static_cast<const V*>(p.other.data)[p.other.offset(b)]);
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
        general(p, b, a);
        if (!is_plain) {
          matrices.put([&](int t) { return a[t]; }, [](int t) { return t; });
        }
      }
      matrices.write();
    });
  }

 private:
  // a <- the result.
  TORCHDET_DEVICE static void general(const Problem& p, int64_t b, V* a) {
    V x[N * N];
    IntegerOf<V> row[N], column[N], column_exponent[N];
    ThreadMatrices<V, N>::read_entries(p.A, b, a);
    const Equilibration<V> eq = equilibrate<N, kCofactorCentral<N, ScalarOf<V>>>(a, N, row, column);
    const bool wants_determinant = p.op == Op::kSlogdetBackward;
    Scaled<V> d = scaled_one<V>();
    if constexpr (kHasMinors<N, V>) {
      cofactors_by_minors<N>(a, x);
      if (wants_determinant) {
        d = determinant<N>(a);
      }
      TORCHDET_UNROLL
      for (int j = 0; j < N; ++j) {
        column_exponent[j] = 0;
      }
      TORCHDET_UNROLL
      for (int t = 0; t < N * N; ++t) {
        a[t] = x[t];
      }
    } else {
      d = cofactors<N>(a, x, column_exponent, wants_determinant);
    }
    const Scaled<V> factor = gradient_factor(p, b, d, eq.total);
    TORCHDET_UNROLL
    for (int j = 0; j < N; ++j) {
      column_exponent[j] = column_exponent[j] + factor.exponent + column[j];
    }
    TORCHDET_UNROLL
    for (int i = 0; i < N; ++i) {
      TORCHDET_UNROLL
      for (int j = 0; j < N; ++j) {
        const V x_ij = scale_pow2(a[i * N + j] * factor.mantissa, row[i] + column_exponent[j]);
        a[i * N + j] = add_poison(p.op == Op::kCofactor ? x_ij : conj(x_ij), eq.poison);
      }
    }
  }
};

// kDetHvp. Complete pivoting permutes every matrix differently: the direction is gathered from
// global memory entry by entry, and the result scattered into the thread's place in shared memory.
template <typename V, int N>
struct ThreadHvp : ThreadKernel<V, N> {
  TORCHDET_DEVICE static void run(const Problem& p) {
    ThreadMatrices<V, N> matrices(p);
    matrices.apply([&](int64_t b) {
      using I = IntegerOf<V>;
      V a[N * N], w[N * N], k[N * N];
      I row_index[N], row[N], column_index[N], column[N];
      matrices.read(p.A, b, a);
      const Equilibration<V> eq = equilibrate<0>(a, N, row, column);
      const RealOf<V> sign = factor_ldu(a, N, {row_index, row}, {column_index, column});
      const V* Z = static_cast<const V*>(p.other.data) + p.other.offset(b);
      I z = I(kZeroExponent);
      for (int i = 0; i < N; ++i) {
        for (int j = 0; j < N; ++j) {
          w[i * N + j] =
              Z[row_index[i] * p.other.row_stride + column_index[j] * p.other.column_stride];
          z = maximum(z, entry_exponent(w[i * N + j]) + row[i] + column[j]);
        }
      }
      z = select(greater(I(kZeroExponentBound), z), I(0), z);
      for (int i = 0; i < N; ++i) {
        for (int j = 0; j < N; ++j) {
          w[i * N + j] = scale_pow2(w[i * N + j], row[i] + column[j] - z);
        }
      }
      const I exponent = cofactor_derivative(a, N, w, k) + eq.total + z;
      matrices.put(
          [&](int t) {
            return add_poison(scale_pow2(k[t] * sign, row[t / N] + column[t % N] + exponent),
                              eq.poison);
          },
          [&](int t) { return static_cast<int>(row_index[t / N]) * N + column_index[t % N]; });
      matrices.write();
    });
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
