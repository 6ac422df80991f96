// Kernels of the class "block": one matrix per block, in shared memory.
#pragma once

#include "block_factor.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// kRows: the orders go up to 32 kRows. More threads for more work.
template <typename V, int kRows, bool kTwoMatrices>
struct BlockKernel {
  static constexpr Memory kMemory = Memory::kShared;
  static constexpr int kThreads = kRows <= 2 ? 64 : kRows <= 4 ? 128 : 256;
  // As many as shared memory has room for at the largest order but few, each of the registers that
  // the tiles need.
  static constexpr int kMaxBlocks = kRows <= 2 ? 8 : kRows <= 4 ? 4 : kRows <= 6 ? 2 : 1;
  static constexpr int kBlocksPerSm =
      std::max(1, kMaxBlocks / static_cast<int>(sizeof(V) == 4   ? 1
                                                : sizeof(V) == 8 ? 2
                                                                 : 4));
  static constexpr int64_t kMatricesPerBlock = 1;
  using Matrix = BlockMatrix<V, kRows, kThreads>;
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

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
