// The inverse of a matrix by its block (block/sweep.h): what cofactors and Hessian-vector products
// begin with. And what all kernels of the class have in common.
#pragma once

#include <array>

#include "sweep.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// Orders up to 32 rows, the warps of a block, the blocks of an SM that registers have to leave room
// for, and the warps of a panel.
struct BlockShape {
  int rows, warps, blocks, panel_warps;
};
// The first are the smallest orders. Where an SM has three blocks or more, one warp of each finds
// pivots. Blocks of three or five warps have these warps on different schedulers. Where shared
// memory has room for one or two blocks, nothing else hides a block's pivots: there are more warps
// for the passes, and, but for complex128, more than one shares a panel.
template <typename V>
inline constexpr auto kDeterminantShapes = [] {
  if constexpr (sizeof(V) == 4) {
    return std::array{BlockShape{3, 3, 5, 1}, BlockShape{4, 5, 3, 1}, BlockShape{5, 8, 2, 2},
                      BlockShape{8, 12, 1, 4}};
  } else if constexpr (sizeof(V) == 8) {
    return std::array{BlockShape{2, 2, 8, 1}, BlockShape{3, 3, 4, 1}, BlockShape{4, 6, 2, 2},
                      BlockShape{8, 12, 1, 4}};
  } else {
    return std::array{BlockShape{2, 2, 2, 1}, BlockShape{3, 4, 1, 1}, BlockShape{4, 8, 1, 1}};
  }
}();
// Panels of cofactors have twice as many numbers in registers, and so at most two rows in a thread
// (float32), else one. A block of two warps has both do a panel, and then its passes: with one warp
// for panels and one for passes, one of them would wait.
template <typename V>
inline constexpr auto kCofactorShapes = [] {
  if constexpr (sizeof(V) == 4) {
    return std::array{BlockShape{4, 5, 3, 2}, BlockShape{5, 8, 2, 4}, BlockShape{8, 16, 1, 4}};
  } else if constexpr (sizeof(V) == 8) {
    return std::array{BlockShape{2, 2, kIsComplex<V> ? 5 : 4, 2}, BlockShape{3, 6, 2, 3},
                      BlockShape{4, 12, 1, 4}, BlockShape{6, 12, 1, 6}};
  } else {
    return std::array{BlockShape{2, 2, 3, 2}, BlockShape{4, 8, 1, 4}};
  }
}();

// Hessian-vector products keep two matrices: an SM has fewer blocks, and these have more warps.
template <typename V>
inline constexpr auto kHvpShapes = [] {
  if constexpr (sizeof(V) == 4) {
    return std::array{BlockShape{2, 2, 5, 2}, BlockShape{3, 6, 2, 3}, BlockShape{4, 12, 1, 4},
                      BlockShape{5, 12, 1, 5}};
  } else if constexpr (sizeof(V) == 8) {
    return std::array{BlockShape{2, 4, 2, 2}, BlockShape{3, 12, 1, 3}, BlockShape{4, 12, 1, 4}};
  } else {
    return std::array{BlockShape{2, 8, 1, 2}, BlockShape{3, 8, 1, 3}};
  }
}();

// Columns of a determinant that come late (factor.h) where a block has no room for all: with 16
// fewer, order 256 would not fit either.
constexpr int kLateColumns = 48;

// kShapes: those of all orders; kRows: of one of them.
template <typename V, int kRows, const auto& kShapes, int kLate = 0>
struct BlockKernel {
  static constexpr Memory kMemory = Memory::kShared;
  static constexpr int kCarveout = 100;  // percent of the L1 cache that shared memory should take
  static constexpr int64_t kMatricesPerBlock = 1;
  static constexpr int kShape = [] {
    int i = 0;
    while (kShapes[i].rows != kRows) {
      ++i;
    }
    return i;
  }();
  static constexpr int kMostRows = kShapes.back().rows;
  static constexpr int kNextRows = kRows < kMostRows ? kShapes[kShape + 1].rows : kRows;
  static constexpr int kThreads = kShapes[kShape].warps * kWarpSize;
  static constexpr int kBlocksPerSm = kShapes[kShape].blocks;
  static constexpr int kPanelWarps = kShapes[kShape].panel_warps;
  using Space = BlockSpace<V, kThreads, kLate>;
};

// kReplacesLast: of B', the matrix with another last pivot (inverse_hvp.h).
template <typename V, int kRows, const auto& kShapes, bool kReplacesLast>
struct BlockInverse : BlockKernel<V, kRows, kShapes> {
  using Base = BlockKernel<V, kRows, kShapes>;
  using Base::kPanelWarps;
  using Base::kThreads;
  static constexpr int kLaneRows = (kRows + kPanelWarps - 1) / kPanelWarps;
  using Sweep = BlockSweep<V, kThreads, kPanelWarps, kLaneRows, kReplacesLast>;
  using Exchange = typename Sweep::Exchange;
  using Space = typename Base::Space;

  // What reading a matrix finds. Not in registers, of which the sweep leaves none.
  struct Found {
    Equilibration<V> eq;
    int32_t largest;
  };

  // use(det B) with the inverse in A, as for_inverse() takes it; what it returns, in all threads
  // the same, or false where the sweep does not serve.
  template <typename Use>
  TORCHDET_DEVICE static bool invert(const Problem& p, int64_t b, Found& found,
                                     InverseFacts<V>* facts, const Space& space,
                                     Team<kThreads>& team, Use use) {
    const TeamSpace<V> team_space(space.A, {nullptr, 0, 0}, space.vectors);
    TeamAlgorithms<V, kThreads> algorithms(team, team_space);
    BlockMatrix<V, kRows, kThreads> matrix(space);
    Equilibration<V> eq = matrix.read(p.A, b, algorithms);
    eq.is_identity = !matrix.is_scaled();
    if (thread_index() == 0) {
      found = {eq, matrix.largest()};  // barriers of the sweep follow
    }
    Sweep sweep(space.A, space.vectors.row_index, *reinterpret_cast<Exchange*>(space.vectors.slots),
                &found.largest, facts);
    sweep.run();
    const int is_safe =
        sweep.is_regular() && !matrix.has_grown(sweep.largest(), found.largest) ? 1 : 0;
    if (team.reduce(is_safe, [](int x, int y) { return x & y; }) == 0) {
      return false;
    }
    Scaled<V> d = sweep.pivots();
    d.mantissa = sweep.is_odd() ? -d.mantissa : d.mantissa;
    return use(team.reduce(d, [](const Scaled<V>& x, const Scaled<V>& y) { return x * y; }));
  }

  // body(i, k, number (i, k) of B^-T), from row q_k of A as block/sweep.h leaves it.
  template <typename Body>
  TORCHDET_DEVICE static void for_inverse(const Space& space, Body body) {
    constexpr int kCount = Chunk<V>::kCount, kWarps = kThreads / kWarpSize;
    const int n = space.A.n, words = words_of<V>(n);
    const int* const rows = space.vectors.row_index;
    // A lane has a column; where warps are left over, some share the words of a row.
    const int across = (n + kWarpSize - 1) / kWarpSize, parts = kWarps / across;
    const int warp = thread_index() / kWarpSize;
    const int k = warp % across * kWarpSize + thread_index() % kWarpSize;
    if (k < n && warp / across < parts) {
      const V* const row = space.A.data + rows[k] * space.A.stride;
      TORCHDET_ROLL
      for (int w = warp / across; w < words; w += parts) {
        const auto chunk = load_shared<Chunk<V>>(row + w * kCount);
        TORCHDET_UNROLL
        for (int e = 0; e < kCount; ++e) {
          const int j = w * kCount + e;
          if (j < n) {
            body(rows[j], k, chunk.x[e]);
          }
        }
      }
    }
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
