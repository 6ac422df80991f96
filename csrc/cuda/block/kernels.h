// Kernels of the class "block": one matrix per block, in shared memory.
//
// det and slogdet: P B = L U. Cofactors: det(B) B^-T by block/sweep.h, which fails only where a
// pivot is exactly zero, the pivots grow, or the inverse leaves the range of the format: such a
// matrix is done again by the rank-revealing LDU of its block, with the result's own memory as the
// second matrix that it needs.
#pragma once

#include <array>
#include <bit>

#include "factor.h"
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

// kDet and kSlogdet.
template <typename V, int kRows, int kLate = 0>
struct BlockDeterminants : BlockKernel<V, kRows, kDeterminantShapes<V>, kLate> {
  using Base = BlockKernel<V, kRows, kDeterminantShapes<V>, kLate>;
  using Base::kThreads;
  static constexpr int kLaneRows = (kRows + Base::kPanelWarps - 1) / Base::kPanelWarps;
  using Factors = BlockFactors<V, kThreads, Base::kPanelWarps, kLaneRows, kLate>;
  using Exchange = typename Factors::Exchange;

  // Once the whole matrix has been read, nobody needs the exponents: those of columns leave their
  // memory to the exchange, those of rows to a list.
  TORCHDET_ANYWHERE static int slot_bytes(int n) {
    return static_cast<int>(sizeof(Exchange)) - (kLate > 0 ? 0 : Base::Space::more_slots(n));
  }
  struct Layout {
    Equilibration<V>* eq;  // what one thread needs at the end, not in registers of all
    typename Base::Space space;
    V* late_pivots;
    int* next_rows;
    Exchange* exchange;

    template <bool kCounts>
    TORCHDET_ANYWHERE Layout(Pieces<kCounts>& pieces, int n)
        : eq(pieces.template take<Equilibration<V>>(1)),
          space(pieces, n, slot_bytes(n)),
          late_pivots(pieces.template take<V>(kLate * kLate)),
          next_rows(kLate > 0 ? pieces.template take<int>(n)
                              : reinterpret_cast<int*>(space.vectors.row)),
          exchange(kLate > 0 ? reinterpret_cast<Exchange*>(space.vectors.slots)
                             : reinterpret_cast<Exchange*>(space.vectors.column)) {}
  };
  static size_t block_bytes(int64_t n) {
    Pieces<true> counter(nullptr);
    Layout(counter, static_cast<int>(n));
    return counter.bytes;
  }

  TORCHDET_DEVICE static void run(const Problem& p) {
    const int n = static_cast<int>(p.n);
    const int64_t b = block_index();
    Pieces<false> pieces(shared_memory<unsigned char>());
    const Layout layout(pieces, n);
    const typename Base::Space& space = layout.space;
    Team<kThreads> team(space.vectors.slots);
    const TeamSpace<V> team_space(space.A, {nullptr, 0, 0}, space.vectors);
    TeamAlgorithms<V, kThreads> algorithms(team, team_space);
    BlockMatrix<V, kRows, kThreads, kLate> matrix(space);
    Equilibration<V> found = matrix.read(p.A, b, algorithms);
    found.is_identity = !matrix.is_scaled();
    if (thread_index() == 0) {
      *layout.eq = found;
    }
    Factors factors(space.A, space.vectors.row_index, layout.next_rows, layout.late_pivots,
                    *layout.exchange);
    Scaled<V> d = factors.factor(
        [&](int i, auto& x) { matrix.load_late(p.A, b, i, !layout.eq->is_identity, x); });
    d.mantissa = factors.is_odd() ? -d.mantissa : d.mantissa;
    d = team.reduce(d, [](const Scaled<V>& x, const Scaled<V>& y) { return x * y; });
    if (thread_index() == 0) {
      d.mantissa = add_poison(d.mantissa, layout.eq->poison);
      d.exponent = d.exponent + layout.eq->total;
      write_determinant(p, b, d);
    }
  }
};

// kCofactor, kDetBackward and kSlogdetBackward.
template <typename V, int kRows>
struct BlockCofactors : BlockKernel<V, kRows, kCofactorShapes<V>> {
  using Base = BlockKernel<V, kRows, kCofactorShapes<V>>;
  using Base::kThreads;
  static constexpr int kLaneRows = (kRows + Base::kPanelWarps - 1) / Base::kPanelWarps;
  using Sweep = BlockSweep<V, kThreads, Base::kPanelWarps, kLaneRows>;
  using Exchange = typename Sweep::Exchange;
  using Space = typename Base::Space;
  using R = RealOf<V>;
  using I = IntegerOf<V>;

  // The slots take the exchange of the sweep, and in write_slow exponents.
  TORCHDET_ANYWHERE static int slot_bytes(int n) {
    return static_cast<int>(maximum(sizeof(Exchange), n * sizeof(I)));
  }
  // What reading a matrix finds. Not in registers, of which the sweep leaves none.
  struct Found {
    Equilibration<V> eq;
    int32_t largest;
  };
  struct Layout {
    Found* found;
    Space space;

    template <bool kCounts>
    TORCHDET_ANYWHERE Layout(Pieces<kCounts>& pieces, int n)
        : found(pieces.template take<Found>(1)), space(pieces, n, slot_bytes(n)) {}
  };
  static size_t block_bytes(int64_t n) {
    Pieces<true> counter(nullptr);
    Layout(counter, static_cast<int>(n));
    return counter.bytes;
  }

  TORCHDET_DEVICE static void run(const Problem& p) {
    const int64_t b = block_index();
    Pieces<false> pieces(shared_memory<unsigned char>());
    const Layout layout(pieces, static_cast<int>(p.n));
    Team<kThreads> team(layout.space.vectors.slots);
    if (!write_fast(p, b, layout, team)) {
      write_slow(p, b, layout.space, team);
    }
  }

 private:
  // Whether the result is right: the same in all threads.
  TORCHDET_DEVICE static bool write_fast(const Problem& p, int64_t b, const Layout& layout,
                                         Team<kThreads>& team) {
    const Space& space = layout.space;
    const TeamSpace<V> team_space(space.A, {nullptr, 0, 0}, space.vectors);
    TeamAlgorithms<V, kThreads> algorithms(team, team_space);
    BlockMatrix<V, kRows, kThreads> matrix(space);
    Equilibration<V> eq = matrix.read(p.A, b, algorithms);
    eq.is_identity = !matrix.is_scaled();
    if (thread_index() == 0) {
      *layout.found = {eq, matrix.largest()};  // barriers of the sweep follow
    }
    Sweep sweep(space.A, space.vectors.row_index,
                *reinterpret_cast<Exchange*>(space.vectors.slots));
    sweep.run();
    const auto both = [](int x, int y) { return x & y; };
    const int is_safe =
        sweep.is_regular() && !matrix.has_grown(sweep.largest(), layout.found->largest) ? 1 : 0;
    if (team.reduce(is_safe, both) == 0) {
      return false;
    }
    Scaled<V> d = sweep.pivots();
    d.mantissa = sweep.is_odd() ? -d.mantissa : d.mantissa;
    d = team.reduce(d, [](const Scaled<V>& x, const Scaled<V>& y) { return x * y; });
    // C(B) = d B^-T; slogdet divides by d again, so there it is left out.
    Scaled<V> factor = gradient_factor(p, b, scaled_one<V>(), layout.found->eq.total);
    factor = p.op == Op::kSlogdetBackward ? factor : factor * d;
    const int finite = write(p, b, space, factor, layout.found->eq) ? 1 : 0;
    return team.reduce(finite, both) != 0;
  }

  // Row q_k of A, as block/sweep.h leaves it, times the factor is column k of the result. Whether A
  // is finite, as far as this thread sees.
  TORCHDET_DEVICE static bool write(const Problem& p, int64_t b, const Space& space,
                                    const Scaled<V>& factor, const Equilibration<V>& eq) {
    const TeamVectors<V>& vectors = space.vectors;
    const bool is_conjugate = p.op != Op::kCofactor, is_scaled = !eq.is_identity;
    // Where nothing is scaled, there is no poison, and where the power of two is a number of the
    // format, scale_pow2 multiplies by it alone: the same bits in fewer instructions.
    constexpr int kMost = Format<ScalarOf<V>>::kMaxExponent - 1;
    if (!is_scaled && factor.exponent >= -kMost && factor.exponent <= kMost) {
      const R power = exact_pow2<R>(IntegerOf<R>(factor.exponent));
      return write(p, b, space, [&](V x, int, int) {
        const V scaled = x * factor.mantissa * power;
        return is_conjugate ? conj(scaled) : scaled;
      });
    }
    return write(p, b, space, [&](V x, int c, int k) {
      const I exponent = is_scaled ? vectors.row[c] + vectors.column[k] : I(0);
      const V scaled = scale_pow2(x * factor.mantissa, factor.exponent + exponent);
      return add_poison(is_conjugate ? conj(scaled) : scaled, eq.poison);
    });
  }
  // result(x, c, k): the number of the result at (c, k), x being that of A.
  template <typename Result>
  TORCHDET_DEVICE static bool write(const Problem& p, int64_t b, const Space& space,
                                    Result result) {
    constexpr int kCount = Chunk<V>::kCount, kWarps = kThreads / kWarpSize;
    const int n = static_cast<int>(p.n), words = words_of<V>(n);
    V* const out = static_cast<V*>(p.out) + b * n * n;
    const int* const rows = space.vectors.row_index;
    // A lane has a column; where warps are left over, some share the words of a row.
    const int across = (n + kWarpSize - 1) / kWarpSize, parts = kWarps / across;
    const int warp = thread_index() / kWarpSize;
    const int k = warp % across * kWarpSize + thread_index() % kWarpSize;
    R check = 0;
    if (k < n && warp / across < parts) {
      const V* const row = space.A.data + rows[k] * space.A.stride;
      TORCHDET_ROLL
      for (int w = warp / across; w < words; w += parts) {
        const auto chunk = load_shared<Chunk<V>>(row + w * kCount);
        TORCHDET_UNROLL
        for (int e = 0; e < kCount; ++e) {
          const int j = w * kCount + e;
          if (j < n) {
            check = add_nothing(chunk.x[e], check);
            out[rows[j] * n + k] = result(chunk.x[e], rows[j], k);
          }
        }
      }
    }
    return check == R(0);
  }

  // By LDU. Its second matrix lies where the result will. Exponents of columns wait in registers,
  // while their memory has the list of columns; that of the slots is theirs at the end.
  TORCHDET_DEVICE static void write_slow(const Problem& p, int64_t b, const Space& space,
                                         Team<kThreads>& team) {
    const int n = static_cast<int>(p.n), t = thread_index();
    V* const out = static_cast<V*>(p.out) + b * n * n;
    TeamVectors<V> vectors = space.vectors;
    vectors.column_index = reinterpret_cast<int*>(vectors.column);
    const TeamSpace<V> team_space(space.A, {out, n, n}, vectors);
    TeamAlgorithms<V, kThreads> matrix(team, team_space);
    matrix.read(p.A, b);
    const Equilibration<V> eq = matrix.equilibrate();
    const I column = t < n ? vectors.column[t] : I(0);
    team.sync();
    const Scaled<V> factor = compute_cofactors(matrix, p, b, eq);
    I* const columns = reinterpret_cast<I*>(vectors.slots);
    if (t < n) {
      columns[t] = column;
    }
    team.for_entries(0, n, 0, n, [&](int i, int j) { space.A(i, j) = team_space.X(i, j); });
    team.sync();
    team.for_entries(0, n, 0, n, [&](int i, int j) {
      const int r = vectors.row_index[i], c = vectors.column_index[j];
      const V x = scale_pow2(space.A(i, j) * factor.mantissa,
                             factor.exponent + vectors.row[r] + columns[c]);
      out[int64_t(r) * n + c] = add_poison(p.op == Op::kCofactor ? x : conj(x), eq.poison);
    });
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
