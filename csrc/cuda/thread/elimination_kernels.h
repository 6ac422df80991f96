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

// Kernel::run_fast(p, matrices): whether the thread's matrix is done. Kernel::run_slowly(team, p,
// b, eq): a matrix that is not, by the warp.
template <typename V, int N, typename Kernel>
struct ThreadEliminationKernel {
  using Matrices = StagedMatrices<V, N>;
  using Algorithms = TeamAlgorithms<V, kWarpSize>;
  static constexpr Memory kMemory = Memory::kShared;
  // As many as have their matrices in the shared memory that every device has.
  static constexpr int kThreads =
      128 / kWarpSize * Matrices::kWarpBytes <= kSharedBytesEverywhere ? 128 : 64;
  static constexpr int64_t kMatricesPerBlock = kThreads;

  // Of a warp: its matrices, or its work space as a team.
  TORCHDET_ANYWHERE static size_t warp_bytes() {
    Arena counter(nullptr);
    TeamSpace<V>(counter, N, 0);
    return counter.bytes > Matrices::kWarpBytes ? counter.bytes : Matrices::kWarpBytes;
  }
  static size_t block_bytes(int64_t) { return kThreads / kWarpSize * warp_bytes(); }

  TORCHDET_DEVICE static void run(const Problem& p) {
    const int warp = thread_index() / kWarpSize;
    const int64_t first = block_index() * kMatricesPerBlock + warp * kWarpSize;
    if (first < p.batch) {
      unsigned char* memory = shared_memory<unsigned char>() + warp * warp_bytes();
      const bool is_done = Kernel::run_fast(p, Matrices(p.batch, first, memory));
      if (any_in_warp(!is_done)) {
        TORCHDET_ROLL
        for (int t = 0; t < kWarpSize && first + t < p.batch; ++t) {
          if (!shuffle(static_cast<int>(is_done), t)) {
            sync_warp();  // all have read what is overwritten now
            run_slowly(p, first + t, memory);
          }
        }
      }
    }
  }

 private:
  TORCHDET_DEVICE static void run_slowly(const Problem& p, int64_t b, unsigned char* memory) {
    Arena arena(memory);
    // Of p.n, so that its loops stay loops.
    const TeamSpace<V> space(arena, static_cast<int>(p.n), 0);
    Team<kWarpSize> team(space.vectors.slots);
    Algorithms algorithms(team, space);
    algorithms.read(p.A, b);
    const Equilibration<V> eq = algorithms.equilibrate();
    Kernel::run_slowly(algorithms, p, b, eq);
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

  TORCHDET_DEVICE static bool run_fast(const Problem& p, const StagedMatrices<V, N>& matrices) {
    V a[N * N];
    matrices.stage(p.A);
    matrices.load(a);
    ThreadElimination<V, N> elimination(a);
    const Scaled<V> d = elimination.determinant();
    bool is_trusted = elimination.is_trusted();
    if (any_in_warp(!is_trusted)) {
      is_trusted = is_trusted || is_central<N>(matrices.own());
    }
    if (matrices.writes() && is_trusted) {
      write_determinant(p, matrices.index(), d);
    }
    return is_trusted;
  }

  TORCHDET_DEVICE static void run_slowly(typename Base::Algorithms& matrix, const Problem& p,
                                         int64_t b, const Equilibration<V>& eq) {
    const RealOf<V> sign = matrix.factor();
    const Scaled<V> d = matrix.product();
    if (thread_index() % kWarpSize == 0) {
      write_determinant(p, b,
                        Scaled<V>{add_poison(d.mantissa * sign, eq.poison), d.exponent + eq.total});
    }
    sync_warp();
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

  TORCHDET_DEVICE static bool run_fast(const Problem& p, const StagedMatrices<V, N>& matrices) {
    using R = RealOf<V>;
    using I = IntegerOf<V>;
    using F = Format<ScalarOf<V>>;
    V a[N * N];
    matrices.stage(p.A);
    const V grad = p.op == Op::kCofactor ? one<V>() : gradient<V>(p, matrices.index());
    matrices.load(a);
    ThreadElimination<V, N> elimination(a);
    elimination.sweep();

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
      matrices.put_row(elimination.row_at(k), row);
    }
    matrices.write(p.out);
    return is_trusted && check == R(0) && least >= std::numeric_limits<R>::min();
  }

  TORCHDET_DEVICE static void run_slowly(typename Base::Algorithms& matrix, const Problem& p,
                                         int64_t b, const Equilibration<V>& eq) {
    write_cofactors(matrix, p, b, eq);
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
