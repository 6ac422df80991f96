// Kernels of the class "warp": a matrix for each warp, or several.
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

// How much a kernel takes of a multiprocessor: rows of M in a lane, threads of a block, and blocks
// at a time. The last bounds registers: as many are there as leave none in memory.
struct WarpShape {
  int rows, threads, blocks;
};
template <typename V>
constexpr WarpShape determinant_shape(int n) {
  if (sizeof(V) == 4) {
    return n <= 8    ? WarpShape{4, 128, 6}
           : n <= 20 ? WarpShape{4, 128, 4}
           : n <= 32 ? WarpShape{4, 128, 3}
           : n <= 40 ? WarpShape{2, 64, 8}
           : n <= 56 ? WarpShape{2, 64, 6}
                     : WarpShape{2, 64, 4};
  }
  if (sizeof(V) == 8) {
    return n <= 8    ? WarpShape{2, 128, 6}
           : n <= 16 ? WarpShape{2, 128, 4}
           : n <= 32 ? WarpShape{kIsComplex<V> ? 2 : 1, 64, kIsComplex<V> ? 4 : 8}
                     : WarpShape{2, 64, 4};
  }
  return n <= 8 ? WarpShape{1, 128, 6} : n <= 16 ? WarpShape{1, 128, 4} : WarpShape{1, 64, 4};
}
template <typename V>
constexpr WarpShape cofactor_shape(int n) {
  if (sizeof(V) == 4) {
    return n <= 8    ? WarpShape{4, 128, 4}
           : n <= 16 ? WarpShape{4, 128, 3}
           : n <= 24 ? WarpShape{4, 128, 3}
           : n <= 40 ? WarpShape{2, 64, 6}
                     : WarpShape{2, 64, 4};
  }
  if (sizeof(V) == 8) {
    return n <= 8    ? WarpShape{2, 128, 3}
           : n <= 16 ? WarpShape{2, 128, 3}
           : n <= 32 ? WarpShape{kIsComplex<V> ? 2 : 1, 64, kIsComplex<V> ? 4 : 6}
                     : WarpShape{2, 64, 4};
  }
  return n <= 8 ? WarpShape{1, 128, 3} : WarpShape{1, 64, 4};
}

// What both kernels have in common.
template <typename V, int N, WarpShape kShape>
struct WarpKernel {
  using Matrix = WarpMatrix<V, N, kShape.rows>;
  static constexpr Memory kMemory = Memory::kShared;
  static constexpr int kThreads = kShape.threads, kBlocksPerSm = kShape.blocks;
  static constexpr int kWarps = kThreads / kWarpSize;
  static constexpr int64_t kMatricesPerBlock = kWarps * Matrix::kPerWarp;

  // The first matrix of the warp.
  TORCHDET_DEVICE static int64_t first_matrix(int thread) {
    return block_index() * kMatricesPerBlock + thread / kWarpSize * Matrix::kPerWarp;
  }
  // The matrix of a thread. Registers are scarce, so it is worked out where it is needed. Who has
  // none works on the last one along with the others, and does not write.
  TORCHDET_DEVICE static int64_t own_matrix() {
    const int thread = computed_anew(thread_index());
    return first_matrix(thread) + Matrix::group_of(thread);
  }
  TORCHDET_DEVICE static int64_t matrix(const Problem& p) {
    const int64_t own = own_matrix();
    return own < p.batch ? own : p.batch - 1;
  }
};

// kDet and kSlogdet.
template <typename V, int N>
struct WarpDeterminants : WarpKernel<V, N, determinant_shape<V>(N)> {
  using Base = WarpKernel<V, N, determinant_shape<V>(N)>;
  using Matrix = typename Base::Matrix;
  static size_t block_bytes(int64_t) { return Base::kWarps * Matrix::kLineBytes; }

  TORCHDET_DEVICE static void run(const Problem& p) {
    if (Base::first_matrix(thread_index()) < p.batch) {
      Matrix matrix(static_cast<int>(p.n),
                    shared_memory<V>() + thread_index() / kWarpSize * 2 * Matrix::kOtherLine);
      Scaled<V> d = scaled_one<V>();
      // Exponents take the place of lines until pivot rows come.
      eliminate_in_range(
          matrix, p.A, [&] { return Base::matrix(p); }, reinterpret_cast<int*>(matrix.line),
          reinterpret_cast<int*>(matrix.line + Matrix::kOtherLine),
          [&] { return eliminate(matrix, d); });
      const int64_t own = Base::own_matrix();
      if (matrix.is_first() && own < p.batch) {
        const Equilibration<V> eq = matrix.equilibration();
        d.mantissa = add_poison(d.mantissa, eq.poison);
        d.exponent = d.exponent + eq.total;
        write_determinant(p, own, d);
      }
    }
  }
};

// kCofactor, kDetBackward and kSlogdetBackward.
template <typename V, int N>
struct WarpCofactors : WarpKernel<V, N, cofactor_shape<V>(N)> {
  using Base = WarpKernel<V, N, cofactor_shape<V>(N)>;
  using Matrix = typename Base::Matrix;
  using Space = SweepSpace<V, N>;

  // Of a warp: lines, then the spaces of its matrices, or its work space as a team.
  TORCHDET_ANYWHERE static size_t warp_bytes(int64_t n) {
    constexpr size_t kSpaces = (Matrix::kPerWarp * sizeof(Space) + 15) / 16 * 16;
    return std::max(WarpSpace<V>::count_bytes(static_cast<int>(n)), Matrix::kLineBytes + kSpaces);
  }
  static size_t block_bytes(int64_t n) { return Base::kWarps * warp_bytes(n); }

  TORCHDET_DEVICE static void run(const Problem& p) {
    unsigned char* memory =
        shared_memory<unsigned char>() + thread_index() / kWarpSize * warp_bytes(p.n);
    const int64_t first = Base::first_matrix(thread_index());
    if (first < p.batch) {
      for_matrices_left<Matrix::kPerWarp, Matrix::kLanes>(
          p, first, write_fast(p, memory),
          [&](int64_t b) { write_cofactors_by_ldu<V>(p, b, memory); });
    }
  }

 private:
  // False where the sweep does not serve.
  TORCHDET_DEVICE static bool write_fast(const Problem& p, unsigned char* memory) {
    Matrix matrix(static_cast<int>(p.n), reinterpret_cast<V*>(memory));
    Space& space = reinterpret_cast<Space*>(memory + Matrix::kLineBytes)[matrix.group];
    WarpSweep<Matrix> sweep(matrix, space);
    eliminate_in_range(
        matrix, p.A, [&] { return Base::matrix(p); }, space.row_exponent, space.column_exponent,
        [&] { return sweep.run([](V last) { return last; }); });
    const Equilibration<V> eq = matrix.equilibration();
    const bool is_scaled = any_in_warp(matrix.is_scaled());
    const int64_t own = Base::own_matrix(), b = Base::matrix(p);
    Scaled<V> factor = gradient_factor(p, b, sweep.determinant(), IntegerOf<V>(eq.total));
    factor.mantissa = factor.mantissa * sweep.before_last().mantissa;
    factor.exponent = factor.exponent + sweep.before_last().exponent;
    const int stride = matrix.n | 1;
    const bool is_finite =
        sweep.store(factor, multiplies_grad(p.op), is_scaled, space.result, stride);
    sync_warp();
    if (own < p.batch) {
      sweep.write(space.result, stride, static_cast<V*>(p.out) + b * p.n * p.n);
    }
    // NaN and infinity reach every entry by the other way.
    const bool is_done = is_finite && sweep.is_regular() && eq.poison == RealOf<V>(0);
    return matrix.reduce(is_done ? 1 : 0, [](int x, int y) { return x & y; }) != 0;
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
