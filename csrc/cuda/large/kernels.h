// Kernels of the class "large": what comes before and after torch's own LU.
//
// prepare: B = 2^-r A 2^-c, and the identity, to global memory. Then P B = L U, and for cofactors
// B^-1, are torch's work, on all SMs at once. Then det(A) = 2^R det(U), and C(B) = det(B) B^-T.
// That fails only where a pivot is exactly zero or the inverse leaves the range of the format: such
// a matrix is done again by the rank-revealing LDU of its block, in the memory that B and its
// inverse take.
#pragma once

#include "../team/kernels.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

constexpr int kLargeTeam = 512;

template <typename V>
struct LargeKernel {
  static constexpr Memory kMemory = Memory::kGlobal;
  static constexpr int kThreads = kLargeTeam, kBlocksPerSm = 1;
  static constexpr int64_t kMatricesPerBlock = 1;
  using Algorithms = TeamAlgorithms<V, kLargeTeam>;

  // For each matrix.
  static size_t block_bytes(int64_t n) {
    Arena counter(nullptr);
    TeamVectors<V>(counter, static_cast<int>(n), Team<kLargeTeam>::kAllSlotBytes);
    return counter.bytes;
  }

  // body(algorithms, vectors, b) for every matrix b of the block, with B as A and the storage of
  // its inverse as X.
  template <typename Body>
  TORCHDET_DEVICE static void for_matrices(const Problem& p, Body body) {
    const int n = static_cast<int>(p.n);
    for (int64_t b = block_index(); b < p.batch; b += block_count()) {
      Arena arena(static_cast<unsigned char*>(p.large.workspace) + b * p.large.workspace_stride);
      const TeamVectors<V> vectors(arena, n, Team<kLargeTeam>::kAllSlotBytes);
      const int64_t offset = b * p.n * p.n;
      const TeamSpace<V> space({static_cast<V*>(p.large.scaled) + offset, n, n},
                               {static_cast<V*>(p.large.inverse) + offset, n, n}, vectors);
      Team<kLargeTeam> team(vectors.slots);
      Algorithms algorithms(team, space);
      body(algorithms, team, vectors, b);
    }
  }

  // Number k of the diagonal of U.
  TORCHDET_DEVICE static V pivot(const Problem& p, int64_t b, int k) {
    return static_cast<const V*>(p.large.lu)[b * p.n * p.n + k * (p.n + 1)];
  }

  // det(B) with the sign of the row exchanges.
  TORCHDET_DEVICE static Scaled<V> determinant(const Problem& p, int64_t b,
                                               Team<kLargeTeam>& team) {
    Scaled<V> own = scaled_one<V>();
    team.for_each(0, static_cast<int>(p.n), [&](int k) {
      own = own * pivot(p, b, k);
      own.mantissa = p.large.pivots[b * p.n + k] == k + 1 ? own.mantissa : -own.mantissa;
    });
    return team.reduce(own, [](const Scaled<V>& x, const Scaled<V>& y) { return x * y; });
  }
};

template <typename V>
struct LargePrepare : LargeKernel<V> {
  TORCHDET_DEVICE static void run(const Problem& p) {
    LargePrepare::for_matrices(p, [&](auto& matrix, auto& team, auto& vectors, int64_t b) {
      matrix.read(p.A, b);
      const Equilibration<V> eq = matrix.equilibrate();
      if (team.is_first()) {
        *vectors.equilibration = eq;
      }
      if (p.op != Op::kDet && p.op != Op::kSlogdet) {
        matrix.set_identity();  // the right-hand side of the inverse
      }
    });
  }
};

// kDet and kSlogdet.
template <typename V>
struct LargeDeterminants : LargeKernel<V> {
  TORCHDET_DEVICE static void run(const Problem& p) {
    LargeDeterminants::for_matrices(p, [&](auto&, auto& team, auto& vectors, int64_t b) {
      Scaled<V> d = LargeDeterminants::determinant(p, b, team);
      d.mantissa = add_poison(d.mantissa, vectors.equilibration->poison);
      d.exponent = d.exponent + vectors.equilibration->total;
      if (team.is_first()) {
        write_determinant(p, b, d);
      }
      team.sync();
    });
  }
};

// kCofactor, kDetBackward and kSlogdetBackward.
template <typename V>
struct LargeCofactors : LargeKernel<V> {
  TORCHDET_DEVICE static void run(const Problem& p) {
    using R = RealOf<V>;
    LargeCofactors::for_matrices(p, [&](auto& matrix, auto& team, auto& vectors, int64_t b) {
      const int n = static_cast<int>(p.n);
      const Equilibration<V> eq = *vectors.equilibration;
      const V* inverse = static_cast<const V*>(p.large.inverse) + b * p.n * p.n;
      int regular = 1;
      team.for_each(0, n, [&](int k) {
        const bool is_zero = pivot_size(LargeCofactors::pivot(p, b, k)) == R(0);
        regular = is_zero ? 0 : regular;
      });
      R check = 0;
      team.for_entries(0, n, 0, n, [&](int i, int j) {
        check = add_nothing(inverse[int64_t(i) * n + j], check);
      });
      regular = check == R(0) ? regular : 0;
      regular = team.reduce(regular, [](int x, int y) { return x & y; });
      if (!regular) {
        write_cofactors(matrix, p, b, eq);
        return;
      }
      // C(B) = d B^-T; slogdet divides by d again, so there it is left out.
      Scaled<V> factor = gradient_factor(p, b, scaled_one<V>(), eq.total);
      if (p.op != Op::kSlogdetBackward) {
        factor = factor * LargeCofactors::determinant(p, b, team);
      }
      V* out = static_cast<V*>(p.out) + b * p.n * p.n;
      team.for_entries(0, n, 0, n, [&](int i, int j) {  // the inverse is column-major
        const V x = scale_pow2(inverse[int64_t(i) * n + j] * factor.mantissa,
                               factor.exponent + vectors.row[i] + vectors.column[j]);
        out[int64_t(i) * n + j] = add_poison(p.op == Op::kCofactor ? x : conj(x), eq.poison);
      });
      team.sync();
    });
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
