// Kernels of the class "thread" from order 5 on: determinants and cofactors by elimination in
// registers.
//
// Matrices that the elimination may not serve are done again by the rank-revealing LDU of the whole
// warp, one after the other, in the shared memory of the warp's matrices.
#pragma once

#include "../team/kernels.h"
#include "elimination.h"
#include "staged.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// Blocks that an SM has room for: each of its four schedulers has 512 registers for every lane.
constexpr int blocks_per_sm(int registers, int threads) {
  return 4 * kWarpSize * std::min(512 / registers, 8) / threads;
}

// Kernel::run_fast(p): whether the thread's matrix is done. Kernel::run_slowly(p, b, memory): a
// matrix that is not, by the warp.
template <typename V, int N, typename Kernel>
struct ThreadEliminationKernel {
  using Matrices = StagedMatrices<V, N>;
  static constexpr Memory kMemory = Memory::kShared;
  // As many as have their matrices in the shared memory that every device has.
  static constexpr int kThreads =
      128 / kWarpSize * Matrices::kWarpBytes <= kSharedBytesEverywhere ? 128 : 64;
  static constexpr int64_t kMatricesPerBlock = kThreads;

  // Of a warp: its matrices, or its work space as a team.
  TORCHDET_ANYWHERE static size_t warp_bytes() {
    return maximum(WarpSpace<V>::count_bytes(N), Matrices::kWarpBytes);
  }
  static size_t block_bytes(int64_t) { return kThreads / kWarpSize * warp_bytes(); }

  // The matrices of the warp. Registers are scarce: worked out where it is needed, and not kept.
  TORCHDET_DEVICE static Matrices matrices(const Problem& p) {
    const int thread = computed_anew(thread_index());
    return Matrices(p.batch, first_matrix(thread), thread % kWarpSize, memory_of(thread));
  }

  TORCHDET_DEVICE static void run(const Problem& p) {
    if (first_matrix(thread_index()) < p.batch) {
      const bool is_done = Kernel::run_fast(p);
      const int thread = computed_anew(thread_index());
      for_matrices_left<kWarpSize, 1>(p, first_matrix(thread), is_done, [&](int64_t b) {
        Kernel::run_slowly(p, b, memory_of(thread));
      });
    }
  }

 private:
  TORCHDET_DEVICE static int64_t first_matrix(int thread) {
    return block_index() * kMatricesPerBlock + thread / kWarpSize * kWarpSize;
  }
  TORCHDET_DEVICE static unsigned char* memory_of(int thread) {
    return shared_memory<unsigned char>() + thread / kWarpSize * warp_bytes();
  }
};

// kDet and kSlogdet.
template <typename V, int N>
struct ThreadEliminationDeterminants
    : ThreadEliminationKernel<V, N, ThreadEliminationDeterminants<V, N>> {
  using Base = ThreadEliminationKernel<V, N, ThreadEliminationDeterminants<V, N>>;
  // The matrix, and what else the compiler needs.
  static constexpr int kOthers = sizeof(RealOf<V>) == 4 ? std::max(43, 4 * N + 8) : 72;
  static constexpr int kBlocksPerSm =
      blocks_per_sm(N * N * sizeof(V) / 4 + kOthers, Base::kThreads);

  TORCHDET_DEVICE static bool run_fast(const Problem& p) {
    V a[N * N];
    const typename Base::Matrices matrices = Base::matrices(p);
    matrices.stage(p.A);
    matrices.load(a);
    ThreadElimination<V, N> elimination(a);
    const Scaled<V> d = elimination.determinant();
    // Without a vote of the warp: ptxas compiles twice what lies between two collectives.
    const bool is_trusted = elimination.is_trusted() || is_central<N>(matrices.own());
    if (matrices.writes() && is_trusted) {
      write_determinant(p, matrices.index(), d);
    }
    return is_trusted;
  }

  TORCHDET_DEVICE static void run_slowly(const Problem& p, int64_t b, unsigned char* memory) {
    write_determinant_by_ldu<V>(p, b, memory);
  }
};

// kCofactor, kDetBackward and kSlogdetBackward.
template <typename V, int N>
struct ThreadEliminationCofactors
    : ThreadEliminationKernel<V, N, ThreadEliminationCofactors<V, N>> {
  using Base = ThreadEliminationKernel<V, N, ThreadEliminationCofactors<V, N>>;
  // The matrix, its pivots, and what else the compiler needs.
  static constexpr int kBlocksPerSm =
      blocks_per_sm((N * N + N) * sizeof(V) / 4 + 61, Base::kThreads);

  TORCHDET_DEVICE static bool run_fast(const Problem& p) {
    using R = RealOf<V>;
    using I = IntegerOf<V>;
    using F = Format<ScalarOf<V>>;
    V a[N * N];
    const typename Base::Matrices sources = Base::matrices(p);
    sources.stage(p.A);
    const V grad = p.op == Op::kCofactor ? one<V>() : gradient<V>(p, sources.index());
    sources.load(a);
    ThreadElimination<V, N> elimination(a);
    elimination.sweep();
    // Here, where what follows hides the latency.
    const typename Base::Matrices results = Base::matrices(p);

    // What multiplies row i of a: P_n grad / u_i, or that over the determinant. A power of two at
    // half the exponent keeps the inverse of a pivot within the format, pivots being within 2^(E/2)
    // of 1.
    const Scaled<V> product = elimination.product();
    Scaled<V> factor =
        gradient_factor(p.op, grad, product * elimination.last_pivot(), I(0)) * product;
    constexpr int kReach = F::kMaxExponent - 3;
    bool is_trusted =
        elimination.is_trusted() && factor.exponent <= kReach && factor.exponent >= -kReach;
    const I reach = is_trusted ? factor.exponent : I(0), half = reach >> 1;
    R check = 0, least = std::numeric_limits<R>::max();
    TORCHDET_UNROLL
    for (int i = 0; i < N; ++i) {
      const V moved =
          elimination.inverse_pivot(i) * exact_pow2<R>(half) * exact_pow2<R>(reach - half);
      least = minimum(component_size(moved), least);
      const V scale = moved * factor.mantissa;
      TORCHDET_UNROLL
      for (int k = 0; k < N; ++k) {
        a[i * N + k] = a[i * N + k] * scale;
        check = add_nothing(a[i * N + k], check);
      }
    }
    TORCHDET_UNROLL
    for (int k = 0; k < N; ++k) {
      V row[N];
      TORCHDET_UNROLL
      for (int i = 0; i < N; ++i) {
        row[i] = multiplies_grad(p.op) ? conj(a[i * N + k]) : a[i * N + k];
      }
      results.put_row(elimination.row_at(k), row);
    }
    results.write(p.out);
    return is_trusted && check == R(0) && least >= std::numeric_limits<R>::min();
  }

  TORCHDET_DEVICE static void run_slowly(const Problem& p, int64_t b, unsigned char* memory) {
    write_cofactors_by_ldu<V>(p, b, memory);
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
