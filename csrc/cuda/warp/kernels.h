// Kernels of the class "warp": several matrices per warp.
//
// det and slogdet: the elimination alone, in registers (warp/elimination.h). Cofactors: the sweep
// (warp/sweep.h), whose result passes through shared memory to be written in whole lines. The few
// matrices for which the sweep does not serve are done again by the rank-revealing LDU of the whole
// warp, one after the other.
#pragma once

#include "../team/kernels.h"
#include "sweep.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// kDet and kSlogdet.
template <typename V, int N>
struct WarpDeterminants {
  using Matrix = WarpMatrix<V, N>;
  using Scaling = WarpScaling<N>;
  static constexpr Memory kMemory = Memory::kShared;
  static constexpr int kThreads = 128, kBlocksPerSm = N == 8 ? 5 : N == 16 ? 3 : 2;
  static constexpr int64_t kMatricesPerBlock = kThreads / Matrix::kLanes;
  static size_t block_bytes(int64_t) { return kMatricesPerBlock * sizeof(Scaling); }

  TORCHDET_DEVICE static void run(const Problem& p) {
    // The first matrix of the warp, and that of the thread.
    const int64_t first =
        block_index() * kMatricesPerBlock + thread_index() / kWarpSize * Matrix::kPerWarp;
    if (first < p.batch) {
      const int64_t b = first + thread_index() % kWarpSize / Matrix::kLanes;
      Matrix matrix(static_cast<int>(p.n),
                    shared_memory<Scaling>()[thread_index() / Matrix::kLanes]);
      matrix.read(p.A, b < p.batch ? b : p.batch - 1);
      const Equilibration<V> eq = matrix.equilibrate();
      Scaled<V> d = eliminate(matrix);
      d.mantissa = add_poison(d.mantissa, eq.poison);
      d.exponent = d.exponent + eq.total;
      if (matrix.lane == 0 && b < p.batch) {
        write_determinant(p, b, d);
      }
    }
  }
};

// kCofactor, kDetBackward and kSlogdetBackward.
template <typename V, int N>
struct WarpCofactors {
  using Matrix = WarpMatrix<V, N>;
  using Space = SweepSpace<V, N>;
  static constexpr int kLanes = Matrix::kLanes;
  static constexpr Memory kMemory = Memory::kShared;
  static constexpr int kThreads = N == 32 ? 64 : 128;
  static constexpr int kBlocksPerSm = N == 16 ? 3 : 4;
  static constexpr int64_t kMatricesPerBlock = kThreads / kLanes;

  // Of a warp: the spaces of its matrices, or its work space as a team.
  TORCHDET_ANYWHERE static size_t warp_bytes(int64_t n) {
    Arena counter(nullptr);
    TeamSpace<V>(counter, static_cast<int>(n), 0);
    return std::max(counter.bytes, Matrix::kPerWarp * sizeof(Space));
  }
  static size_t block_bytes(int64_t n) { return kThreads / kWarpSize * warp_bytes(n); }

  TORCHDET_DEVICE static void run(const Problem& p) {
    const int warp = thread_index() / kWarpSize;
    unsigned char* memory = shared_memory<unsigned char>() + warp * warp_bytes(p.n);
    const int place = thread_index() % kWarpSize / kLanes;
    const int64_t first = block_index() * kMatricesPerBlock + warp * Matrix::kPerWarp;
    if (first < p.batch) {
      const bool is_own = first + place < p.batch;
      const int64_t b = is_own ? first + place : p.batch - 1;
      const bool is_done = write_fast(p, b, reinterpret_cast<Space*>(memory)[place], is_own);
      sync_warp();
      if (any_in_warp(!is_done)) {
        for (int t = 0; t < Matrix::kPerWarp && first + t < p.batch; ++t) {
          if (!shuffle(static_cast<int>(is_done), t * kLanes)) {
            write_slow(p, first + t, memory);
          }
        }
      }
    }
  }

 private:
  // False where the sweep does not serve.
  TORCHDET_DEVICE static bool write_fast(const Problem& p, int64_t b, Space& space, bool writes) {
    Matrix matrix(static_cast<int>(p.n), space.scaling);
    matrix.read(p.A, b);
    const Equilibration<V> eq = matrix.equilibrate();
    WarpSweep<Matrix> sweep(matrix, space);
    sweep.run();
    const Scaled<V> factor = gradient_factor(p, b, sweep.determinant(), IntegerOf<V>(eq.total));
    const bool is_finite = sweep.store(factor, multiplies_grad(p.op));
    sync_warp();
    if (writes) {
      sweep.write(static_cast<V*>(p.out) + b * p.n * p.n);
    }
    // NaN and infinity reach every entry by the other way.
    const bool is_done = is_finite && sweep.is_regular() && eq.poison == RealOf<V>(0);
    return Matrix::reduce(is_done ? 1 : 0, [](int x, int y) { return x & y; }) != 0;
  }

  TORCHDET_DEVICE static void write_slow(const Problem& p, int64_t b, unsigned char* memory) {
    Arena arena(memory);
    const TeamSpace<V> space(arena, static_cast<int>(p.n), 0);
    Team<kWarpSize> team(space.vectors.slots);
    TeamAlgorithms<V, kWarpSize> algorithms(team, space);
    algorithms.read(p.A, b);
    const Equilibration<V> eq = algorithms.equilibrate();
    write_cofactors(algorithms, p, b, eq);
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
