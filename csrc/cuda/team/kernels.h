// What a team does: the results of matrices that the other classes' own algorithms leave.
//
// All come from the rank-revealing LDU, which has the determinant, C(B) = s G^T diag(a) F^T with
// a_i = prod_{k != i} d_k and H[Z] = s G^T K F^T (math/hvp.h), exact at every rank.
#pragma once

#include "factor.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// C(B) = s X 2^e for the equilibrated matrix B, in the order of the factors; det(B) = s d. Returns
// what makes the operator's result of X, but for the scaling of rows and columns.
template <typename V, int kSize>
TORCHDET_DEVICE Scaled<V> compute_cofactors(TeamAlgorithms<V, kSize>& matrix, const Problem& p,
                                            int64_t b, const Equilibration<V>& eq) {
  const RealOf<V> sign = matrix.factor();
  const Scaled<V> d = matrix.product();
  const IntegerOf<V> e = matrix.exclusive_products();
  matrix.template carry_back<true>();
  Scaled<V> factor = gradient_factor(p, b, Scaled<V>{d.mantissa * sign, d.exponent}, eq.total);
  factor.mantissa = factor.mantissa * sign;
  factor.exponent = factor.exponent + e;
  return factor;
}
// The same, and the result.
template <typename V, int kSize>
TORCHDET_DEVICE void write_cofactors(TeamAlgorithms<V, kSize>& matrix, const Problem& p, int64_t b,
                                     const Equilibration<V>& eq) {
  const Scaled<V> factor = compute_cofactors(matrix, p, b, eq);
  matrix.invert_permutations();
  matrix.write(p, b, factor, eq.poison);
}

// body(b), by the warp, for its matrices b that are not done, one after the other. It has kCount
// from `first` on, each of kLanes lanes, in which is_done is the same.
template <int kCount, int kLanes, typename Body>
TORCHDET_DEVICE void for_matrices_left(const Problem& p, int64_t first, bool is_done, Body body) {
  if (any_in_warp(!is_done)) {
    TORCHDET_ROLL
    for (int t = 0; t < kCount && first + t < p.batch; ++t) {
      if (!shuffle(static_cast<int>(is_done), t * kLanes)) {
        sync_warp();  // all have read what is overwritten now
        body(first + t);
      }
    }
  }
}

// What a warp has in shared memory for one of them: a matrix, and the vectors.
template <typename V>
struct WarpSpace {
  TeamMatrix<V> matrix;
  TeamVectors<V> vectors;

  TORCHDET_ANYWHERE WarpSpace(Arena& arena, int n)
      : matrix(arena.take_matrix<V>(n)), vectors(arena, n, 0) {}
  TORCHDET_ANYWHERE static size_t count_bytes(int n) {
    Arena counter(nullptr);
    WarpSpace(counter, n);
    return counter.bytes;
  }

  // finish(algorithms, equilibration) for matrix b of the batch, equilibrated in A.
  template <typename Finish>
  TORCHDET_DEVICE void start(const Problem& p, int64_t b, TeamMatrix<V> A, Finish finish) const {
    const TeamSpace<V> space(A, matrix, vectors);
    Team<kWarpSize> team(vectors.slots);
    TeamAlgorithms<V, kWarpSize> algorithms(team, space);
    algorithms.read(p.A, b);
    finish(algorithms, algorithms.equilibrate());
  }
};

// A determinant by LDU.
template <typename V>
TORCHDET_DEVICE void write_determinant_by_ldu(const Problem& p, int64_t b, unsigned char* memory) {
  Arena arena(memory);
  const WarpSpace<V> space(arena, static_cast<int>(p.n));
  space.start(p, b, space.matrix, [&](auto& matrix, const Equilibration<V>& eq) {
    const RealOf<V> sign = matrix.factor();
    const Scaled<V> d = matrix.product();
    if (thread_index() % kWarpSize == 0) {
      write_determinant(p, b,
                        Scaled<V>{add_poison(d.mantissa * sign, eq.poison), d.exponent + eq.total});
    }
    sync_warp();
  });
}
// finish(algorithms, equilibration), which writes matrix b of the result. Till then the factors lie
// in its memory.
template <typename V, typename Finish>
TORCHDET_DEVICE void write_matrix_by_ldu(const Problem& p, int64_t b, unsigned char* memory,
                                         Finish finish) {
  const int n = static_cast<int>(p.n);
  Arena arena(memory);
  const WarpSpace<V> space(arena, n);
  space.start(p, b, {static_cast<V*>(p.out) + b * n * n, n, n}, finish);
}
template <typename V>
TORCHDET_DEVICE void write_cofactors_by_ldu(const Problem& p, int64_t b, unsigned char* memory) {
  write_matrix_by_ldu<V>(p, b, memory, [&](auto& matrix, const Equilibration<V>& eq) {
    write_cofactors(matrix, p, b, eq);
  });
}

// kDetHvp of matrix b, which is equilibrated in A.
template <typename V, int kSize>
TORCHDET_DEVICE void write_hvp(TeamAlgorithms<V, kSize>& matrix, const Problem& p, int64_t b,
                               const Equilibration<V>& eq) {
  const RealOf<V> sign = matrix.factor();
  matrix.invert_permutations();
  const IntegerOf<V> z = matrix.read_direction(p.other, b);
  matrix.carry_in();
  const IntegerOf<V> e = matrix.pair_products();
  matrix.template carry_back<false>();
  matrix.write(p, b, {one<V>() * sign, e + z + eq.total}, eq.poison);
}
// The same by a warp, from the beginning.
template <typename V>
TORCHDET_DEVICE void write_hvp_by_ldu(const Problem& p, int64_t b, unsigned char* memory) {
  write_matrix_by_ldu<V>(
      p, b, memory, [&](auto& matrix, const Equilibration<V>& eq) { write_hvp(matrix, p, b, eq); });
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
