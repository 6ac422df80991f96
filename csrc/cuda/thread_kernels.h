// Kernels of the class "thread": one matrix per thread, in registers, of an order known at compile
// time. The algorithms are those of the CPU's lanes (math/), with one number to a lane.
//
// A warp owns 32 neighbouring matrices. Packed batches pass through the warp's slice of shared
// memory, so that global memory is read and written in whole lines; strided ones are read entry by
// entry. Matrices lie there at an odd stride, which spreads the threads over all banks.
#pragma once

#include "results.h"

#include "../math/cofactor.h"
#include "../math/hvp.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename V, int N>
class ThreadMatrices {
 public:
  static constexpr int kEntries = N * N, kStride = kEntries | 1;
  // Whole wide words make a matrix: each thread reads its own.
  static constexpr bool kIsWide = kEntries * sizeof(V) % sizeof(Wide) == 0;
  static constexpr int kThreads = 128;
  static constexpr size_t kSharedBytes = sizeof(V) * kThreads * kStride;

  // The thread's place: its matrix is first + lane, if there are so many.
  TORCHDET_DEVICE explicit ThreadMatrices(const Problem& problem)
      : lane(thread_index() % kWarpSize),
        first_(block_index() * kThreads + thread_index() / kWarpSize * kWarpSize),
        problem_(problem),
        shared_(shared_memory<V>() + thread_index() / kWarpSize * kWarpSize * kStride) {}

  // body(b) for the thread's matrix b. The threads of a warp that have none left work on the last
  // matrix of the batch once more, and do not write.
  template <typename Body>
  TORCHDET_DEVICE void apply(Body body) {
    if (first_ < problem_.batch) {
      const int64_t left = problem_.batch - first_;
      active_ = left < kWarpSize ? static_cast<int>(left) : kWarpSize;
      body(first_ + (lane < active_ ? lane : active_ - 1));
    }
  }

  TORCHDET_DEVICE void read(const BatchView& view, int64_t b, V* a) const {
    const V* data = static_cast<const V*>(view.data);
    const bool packed = view.dims == 0 || (view.dims == 1 && view.strides[0] == kEntries);
    const bool by_rows = packed && view.column_stride == 1 && view.row_stride == N;
    const bool by_columns = packed && view.row_stride == 1 && view.column_stride == N;
    if (kIsWide && by_rows && reinterpret_cast<uintptr_t>(data) % sizeof(Wide) == 0) {
      read_wide(data + b * kEntries, a);
    } else if (by_rows || by_columns) {
      stage(data);
      for (int i = 0; i < N; ++i) {
        for (int j = 0; j < N; ++j) {
          a[i * N + j] = own()[by_rows ? i * N + j : j * N + i];
        }
      }
      sync_warp();
    } else {
      const V* from = data + view.offset(b);
      for (int i = 0; i < N; ++i) {
        for (int j = 0; j < N; ++j) {
          a[i * N + j] = from[i * view.row_stride + j * view.column_stride];
        }
      }
    }
  }

  // Entry (i, j) of the thread's result comes from value(i, j) and goes to place(i, j).
  template <typename Value, typename Place>
  TORCHDET_DEVICE void write(Value value, Place place) const {
    for (int i = 0; i < N; ++i) {
      for (int j = 0; j < N; ++j) {
        own()[place(i, j)] = value(i, j);
      }
    }
    sync_warp();
    V* out = static_cast<V*>(problem_.out) + first_ * kEntries;
    for (int e = lane; e < active_ * kEntries; e += kWarpSize) {
      out[e] = shared_[e / kEntries * kStride + e % kEntries];
    }
    sync_warp();
  }

  // Whether the thread's matrix is its own, and not a repetition of the last one.
  TORCHDET_DEVICE bool writes() const { return lane < active_; }

  const int lane;

 private:
  TORCHDET_DEVICE V* own() const { return shared_ + lane * kStride; }

  TORCHDET_DEVICE void stage(const V* data) const {
    const V* from = data + first_ * kEntries;
    for (int e = lane; e < active_ * kEntries; e += kWarpSize) {
      shared_[e / kEntries * kStride + e % kEntries] = from[e];
    }
    sync_warp();
    if (lane >= active_) {  // a copy of the last matrix, so that every thread has a valid one
      for (int e = 0; e < kEntries; ++e) {
        own()[e] = shared_[(active_ - 1) * kStride + e];
      }
    }
  }

  TORCHDET_DEVICE static void read_wide(const V* from, V* a) {
    constexpr int kPerWord = sizeof(Wide) / sizeof(V);
    for (int w = 0; w < kEntries / kPerWord; ++w) {
      const Wide word = reinterpret_cast<const Wide*>(from)[w];
      std::memcpy(static_cast<void*>(a + w * kPerWord), &word, sizeof(word));
    }
  }

  const int64_t first_;
  int active_ = 0;
  const Problem& problem_;
  V* shared_;
};

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
      IntegerOf<V> row[N], column[N];
      matrices.read(p.A, b, a);
      const Equilibration<V> eq = equilibrate<N>(a, N, row, column);
      Scaled<V> d = determinant<N>(a);
      d.mantissa = add_poison(d.mantissa, eq.poison);
      d.exponent = d.exponent + eq.total;
      if (matrices.writes()) {
        write_determinant(p, b, d);
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
      V a[N * N], x[N * N];
      IntegerOf<V> row[N], column[N], column_exponent[N];
      matrices.read(p.A, b, a);
      const Equilibration<V> eq =
          equilibrate<N, kCofactorCentral<N, ScalarOf<V>>>(a, N, row, column);
      const Scaled<V> d = cofactors<N>(a, x, column_exponent, p.op == Op::kSlogdetBackward);
      const Scaled<V> factor = gradient_factor(p, b, d, eq.total);
      for (int j = 0; j < N; ++j) {
        column_exponent[j] = column_exponent[j] + factor.exponent + column[j];
      }
      matrices.write(
          [&](int i, int j) {
            const V y = scale_pow2(a[i * N + j] * factor.mantissa, row[i] + column_exponent[j]);
            return add_poison(p.op == Op::kCofactor ? y : conj(y), eq.poison);
          },
          [](int i, int j) { return i * N + j; });
    });
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
      matrices.write(
          [&](int i, int j) {
            return add_poison(scale_pow2(k[i * N + j] * sign, row[i] + column[j] + exponent),
                              eq.poison);
          },
          [&](int i, int j) { return static_cast<int>(row_index[i]) * N + column_index[j]; });
    });
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
