// Kernels of the class "block": one matrix per block, in shared memory.
//
// det and slogdet: P B = L U. Cofactors: det(B) B^-T from the same factors (block/inverse.h), which
// fails only where a pivot is exactly zero, the pivots grow, or the inverse leaves the range of the
// format: such a matrix is done again by the rank-revealing LDU of its block, in the same memory.
#pragma once

#include "inverse.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// kRows: the orders go up to 32 kRows. Threads and blocks are as many as shared memory, and the
// registers that tiles need, leave room for.
template <typename V, int kRows, bool kTwoMatrices>
struct BlockKernel {
  static constexpr Memory kMemory = Memory::kShared;
  static constexpr int kNumbers = sizeof(V) / 4;  // float32 numbers of the same size
  static constexpr int kMostRows = kTwoMatrices ? (kNumbers == 1 ? 6 : 4)
                                                : (kNumbers == 1   ? 8
                                                   : kNumbers == 2 ? 6
                                                                   : 4);
  static constexpr int kThreads = kRows <= 2 ? 64 : kRows <= 4 && !kTwoMatrices ? 128 : 256;
  static constexpr int kMostBlocks = kTwoMatrices ? (kRows <= 2 ? 6 : 1)
                                                  : (kRows <= 2   ? 8
                                                     : kRows <= 4 ? 4
                                                                  : 8 - kRows);
  static constexpr int kBlocksPerSm = std::max(1, kMostBlocks / kNumbers);
  static constexpr int64_t kMatricesPerBlock = 1;
  using Matrix = BlockFactors<V, kRows, kThreads>;
  using Space = BlockSpace<V, kThreads>;

  static size_t block_bytes(int64_t n) {
    Pieces<true> counter(nullptr);
    Space(counter, static_cast<int>(n), kTwoMatrices);
    return counter.bytes;
  }
};

// kDet and kSlogdet.
template <typename V, int kRows>
struct BlockDeterminants : BlockKernel<V, kRows, false> {
  using Base = BlockKernel<V, kRows, false>;
  TORCHDET_DEVICE static void run(const Problem& p) {
    const int64_t b = block_index();
    Pieces<false> pieces(shared_memory<unsigned char>());
    const typename Base::Space space(pieces, static_cast<int>(p.n), false);
    Team<Base::kThreads> team(space.vectors.slots);
    const TeamSpace<V> team_space(space.A, space.X, space.vectors);
    TeamAlgorithms<V, Base::kThreads> algorithms(team, team_space);
    typename Base::Matrix matrix(space);
    const Equilibration<V> eq = matrix.read(p.A, b, algorithms);
    Scaled<V> d = matrix.factor();
    if (thread_index() == 0) {
      d.mantissa = add_poison(d.mantissa, eq.poison);
      d.exponent = d.exponent + eq.total;
      write_determinant(p, b, d);
    }
  }
};

// kCofactor, kDetBackward and kSlogdetBackward.
template <typename V, int kRows>
struct BlockCofactors : BlockKernel<V, kRows, true> {
  using Base = BlockKernel<V, kRows, true>;
  static constexpr int kThreads = Base::kThreads;
  using R = RealOf<V>;

  TORCHDET_DEVICE static void run(const Problem& p) {
    const int64_t b = block_index();
    Pieces<false> pieces(shared_memory<unsigned char>());
    const typename Base::Space space(pieces, static_cast<int>(p.n), true);
    Team<kThreads> team(space.vectors.slots);
    const TeamSpace<V> team_space(space.A, space.X, space.vectors);
    TeamAlgorithms<V, kThreads> algorithms(team, team_space);
    typename Base::Matrix matrix(space);
    Equilibration<V> eq = matrix.read(p.A, b, algorithms);
    const Scaled<V> own = matrix.factor();
    if (thread_index() == 0) {
      *space.determinant = own;
    }
    sync_block();
    const Scaled<V> d = *space.determinant;
    const int is_safe = component_size(d.mantissa) != R(0) && !matrix.has_grown() ? 1 : 0;
    const auto both = [](int x, int y) { return x & y; };
    bool is_done = false;
    if (team.reduce(is_safe, both) != 0) {
      BlockInverse<V, kRows, kThreads>(matrix, space).compute();
      // C(B) = d B^-T; slogdet divides by d again, so there it is left out.
      Scaled<V> factor = gradient_factor(p, b, scaled_one<V>(), eq.total);
      factor = p.op == Op::kSlogdetBackward ? factor : factor * d;
      const int finite = write(p, b, space, factor, eq.poison, matrix.is_scaled()) ? 1 : 0;
      is_done = team.reduce(finite, both) != 0;
    }
    if (!is_done) {
      algorithms.read(p.A, b);
      eq = algorithms.equilibrate();
      write_cofactors(algorithms, p, b, eq);
    }
  }

 private:
  // Row p(c) of X, times the factor, becomes row c of the result. Whether X is finite, as far as
  // this thread sees.
  TORCHDET_DEVICE static bool write(const Problem& p, int64_t b, const typename Base::Space& space,
                                    Scaled<V> factor, R poison, bool is_scaled) {
    constexpr int kCount = Chunk<V>::kCount;
    const int n = static_cast<int>(p.n), words = words_of<V>(n);
    const int lane = thread_index() % kWarpSize;
    V* const out = static_cast<V*>(p.out) + b * n * n;
    const bool wide = n % kCount == 0 && reinterpret_cast<uintptr_t>(out) % sizeof(Wide) == 0;
    R check = 0;
    for (int place = thread_index() / kWarpSize; place < n; place += kThreads / kWarpSize) {
      const int c = space.vectors.row_index[place];
      const IntegerOf<V> exponent =
          factor.exponent + (is_scaled ? space.vectors.row[c] : IntegerOf<V>(0));
      for (int w = lane; w < words; w += kWarpSize) {
        Chunk<V> chunk = Chunk<V>::load(space.X.data + place * space.X.stride + w * kCount);
        TORCHDET_UNROLL
        for (int e = 0; e < kCount; ++e) {
          const int j = w * kCount + e;
          if (j < n) {
            const V x = chunk.x[e];
            check = add_nothing(x, check);
            const V scaled =
                scale_pow2(x * factor.mantissa,
                           exponent + (is_scaled ? space.vectors.column[j] : IntegerOf<V>(0)));
            chunk.x[e] = add_poison(p.op == Op::kCofactor ? scaled : conj(scaled), poison);
          }
        }
        V* const to = out + int64_t(c) * n + w * kCount;
        if (wide) {
          chunk.store_elsewhere(to);
        } else {
          TORCHDET_UNROLL
          for (int e = 0; e < kCount; ++e) {
            if (w * kCount + e < n) {
              to[e] = chunk.x[e];
            }
          }
        }
      }
    }
    return check == R(0);
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
