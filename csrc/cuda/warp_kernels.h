// Kernels of the class "warp": several matrices per warp.
//
// det and slogdet: the elimination alone, in registers. Cofactors, from P A^T = L U:
//     C(A) = sgn adj(U) L^-1 P, (1)
// and each lane, which owned columns of A, now owns the same columns c of C(A):
//     y = L^-1 P e_c,   t_i = suf_i y_i - sum_{j>i} v_ij t_j,   C_ic = sgn pre_i t_i, (2)
// with pre_i and suf_i the products of the pivots before and after u_i, and v_ij = u_ij
// prod_{i<k<j} u_k. (2) is U^-1 y with the determinant multiplied in, pivot by pivot, so that none
// is divided by: the last one may be zero. The coefficients are the same for all lanes of a matrix
// and come from shared memory, each for R columns.
//
// Products without exponents need a range. Matrices are scaled to a largest entry in [1, 2), and
// those whose products pre_i leave [2^-E/3, 2^E/2] all the same, as well as those of rank below
// n - 1, are done again by the rank-revealing LDU of the whole warp, one after the other.
#pragma once

#include "team_kernels.h"
#include "warp_elimination.h"

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
      const Equilibration<V> eq = matrix.template equilibrate<false>();
      NoRecord no_record;
      const Scaled<V> d = WarpElimination<Matrix>(matrix, eq).determinant(no_record);
      if (matrix.lane == 0 && b < p.batch) {
        write_determinant(p, b, d);
      }
    }
  }
};

// The factors of one matrix, in shared memory.
template <typename V, int N>
struct WarpFactors {
  WarpScaling<N> scaling;
  int pivot_row[N];       // row of M that is row k of L and U
  V before[N], after[N];  // pre_k, suf_k
  V upper[N][N];          // u_k,k+c at [k][c], then v_k,k+c
  V lower[N][N | 1];      // multipliers of each row of M; the odd stride spreads rows over banks
};

// Writes them down, and watches pre.
template <typename V, int N>
struct WarpRecord {
  using R = RealOf<V>;
  static constexpr int kLowest = -Format<R>::kMaxExponent / 3,
                       kHighest = Format<R>::kMaxExponent / 2;

  WarpFactors<V, N>& factors;
  const bool is_first;
  V before;
  bool is_moderate = true;

  TORCHDET_DEVICE void pivot(int k, int row, V u) {
    const R size = component_size(before);
    is_moderate = is_moderate && size >= exact_pow2<R>(kLowest) && size <= exact_pow2<R>(kHighest);
    if (is_first) {
      factors.pivot_row[k] = row;
      factors.before[k] = before;
    }
    before = before * u;
  }
  TORCHDET_DEVICE void upper(int k, int c, V u) const { factors.upper[k][c] = u; }
  TORCHDET_DEVICE void lower(int row, int k, V l) const { factors.lower[row][k] = l; }
};

// kCofactor, kDetBackward and kSlogdetBackward.
template <typename V, int N>
struct WarpCofactors {
  // Beside the matrix there is more to keep than in a determinant: for N = 32 numbers of 8 bytes
  // take one column per lane.
  using Matrix = WarpMatrix<V, N, N == 32 && sizeof(V) == 8 ? 1 : kWideRows<V>>;
  using R = RealOf<V>;
  using I = IntegerOf<V>;

  using Factors = WarpFactors<V, N>;
  static constexpr int kRows = Matrix::kRows, kLanes = Matrix::kLanes;
  static constexpr Memory kMemory = Memory::kShared;
  static constexpr int kThreads = N == 32 ? 64 : 128;
  static constexpr int kBlocksPerSm = N == 8 ? 3 : N == 16 ? 2 : 4;
  static constexpr int64_t kMatricesPerBlock = kThreads / kLanes;

  // Of a warp: the factors of its matrices, or the work space of the warp as a team.
  TORCHDET_ANYWHERE static size_t warp_bytes(int64_t n) {
    Arena counter(nullptr);
    TeamSpace<V>(counter, static_cast<int>(n), 0, true);
    return std::max(counter.bytes, Matrix::kPerWarp * sizeof(Factors));
  }
  static size_t block_bytes(int64_t n) { return kThreads / kWarpSize * warp_bytes(n); }

  TORCHDET_DEVICE static void run(const Problem& p) {
    const int warp = thread_index() / kWarpSize;
    unsigned char* memory = shared_memory<unsigned char>() + warp * warp_bytes(p.n);
    const int place = thread_index() % kWarpSize / kLanes;
    Factors& factors = reinterpret_cast<Factors*>(memory)[place];
    const int64_t first = block_index() * kMatricesPerBlock + warp * Matrix::kPerWarp;
    if (first < p.batch) {
      const int64_t b = first + place < p.batch ? first + place : p.batch - 1;
      const bool is_done = write_fast(p, b, factors, first + place < p.batch);
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
  // (2) for the lane's columns; false where that cannot be trusted.
  TORCHDET_DEVICE static bool write_fast(const Problem& p, int64_t b, Factors& factors,
                                         bool writes) {
    const int n = static_cast<int>(p.n);
    Matrix matrix(n, factors.scaling);
    matrix.read(p.A, b);
    const R poison = matrix.template equilibrate<true>().poison;
    // A matrix with NaN or infinity is not moderate.
    WarpRecord<V, N> record{factors, matrix.lane == 0, add_poison(one<V>(), poison)};
    WarpElimination<Matrix> elimination(matrix, {0, R(0)});
    const Scaled<V> d = elimination.determinant(record);
    sync_warp();
    multiply_out(factors, matrix);
    sync_warp();
    V(&y)[kRows][N] = matrix.m;
    substitute(factors, matrix, y);
    Scaled<V> factor = gradient_factor(p, b, d, I(factors.scaling.total));
    factor.mantissa = factor.mantissa * elimination.sign();
    const bool is_finite = write(p, b, factors, matrix, factor, writes);
    return Matrix::reduce(is_finite && record.is_moderate ? 1 : 0,
                          [](int x, int y) { return x & y; }) != 0;
  }

  // v and suf, row by row of U: lanes take them in turn.
  TORCHDET_DEVICE static void multiply_out(Factors& factors, const Matrix& matrix) {
    for (int i = matrix.lane; i < matrix.n; i += kLanes) {
      V between = one<V>();
      for (int j = i + 1; j < N; ++j) {
        V& u = factors.upper[i][j - i];
        if (j < matrix.n) {
          u = u * between;
          between = between * factors.upper[j][0];
        } else {
          u = zero<V>();  // substitute() takes whole rows
        }
      }
      factors.after[i] = between;
    }
  }

  // (2): t in y.
  TORCHDET_DEVICE static void substitute(const Factors& factors, const Matrix& matrix,
                                         V (&y)[kRows][N]) {
    TORCHDET_UNROLL
    for (int k = 0; k < N; ++k) {
      const int row = k < matrix.n ? factors.pivot_row[k] : 0;
      TORCHDET_UNROLL
      for (int r = 0; r < kRows; ++r) {
        y[r][k] = k < matrix.n && row == matrix.row_of(r) ? one<V>() : zero<V>();
      }
      if (k < matrix.n) {
        TORCHDET_UNROLL
        for (int j = 0; j < N; ++j) {
          if (j < k) {
            const V l = factors.lower[row][j];
            TORCHDET_UNROLL
            for (int r = 0; r < kRows; ++r) {
              y[r][k] = fnma(l, y[r][j], y[r][k]);
            }
          }
        }
      }
    }
    TORCHDET_UNROLL
    for (int step = 0; step < N; ++step) {
      const int i = N - 1 - step;
      if (i < matrix.n) {
        const V after = factors.after[i];
        TORCHDET_UNROLL
        for (int r = 0; r < kRows; ++r) {
          y[r][i] = y[r][i] * after;
        }
        TORCHDET_UNROLL
        for (int j = 0; j < N; ++j) {
          if (j > i) {
            const V v = factors.upper[i][j - i];
            TORCHDET_UNROLL
            for (int r = 0; r < kRows; ++r) {
              y[r][i] = fnma(v, y[r][j], y[r][i]);
            }
          }
        }
      }
    }
  }

  // C_ic for the lane's columns; whether all are finite before the exponents go back in.
  TORCHDET_DEVICE static bool write(const Problem& p, int64_t b, const Factors& factors,
                                    const Matrix& matrix, Scaled<V> factor, bool writes) {
    const int n = matrix.n;
    V* out = static_cast<V*>(p.out) + b * p.n * p.n + matrix.row_of(0);
    R check = 0;
    TORCHDET_UNROLL
    for (int i = 0; i < N; ++i) {
      if (i < n) {
        const V before = factors.before[i] * factor.mantissa;
        const I exponent = factor.exponent + factors.scaling.row[i];
        V x[kRows];
        TORCHDET_UNROLL
        for (int r = 0; r < kRows; ++r) {
          x[r] = matrix.m[r][i] * before;
          check = add_nothing(x[r], check);
          x[r] = scale_pow2(p.op == Op::kCofactor ? x[r] : conj(x[r]),
                            exponent + factors.scaling.column[matrix.row_of(r)]);
        }
        if (writes && n % kRows == 0 && matrix.row_of(0) < n) {
          typename Matrix::LaneWord word;
          std::memcpy(&word, x, sizeof(word));
          *reinterpret_cast<typename Matrix::LaneWord*>(out + int64_t(i) * n) = word;
        } else if (writes) {
          TORCHDET_UNROLL
          for (int r = 0; r < kRows; ++r) {
            if (matrix.row_of(r) < n) {
              out[int64_t(i) * n + r] = x[r];
            }
          }
        }
      }
    }
    return check == R(0);
  }

  TORCHDET_DEVICE static void write_slow(const Problem& p, int64_t b, unsigned char* memory) {
    Arena arena(memory);
    const TeamSpace<V> space(arena, static_cast<int>(p.n), 0, true);
    Team<kWarpSize> team(space.vectors.slots);
    TeamAlgorithms<V, kWarpSize> algorithms(team, space);
    algorithms.read(p.A, b);
    const Equilibration<V> eq = algorithms.equilibrate();
    write_cofactors(algorithms, p, b, eq);
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
