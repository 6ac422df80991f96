// Hessian-vector products of det in the class "block": the inverse by the sweep, then two products
// (products.h), or all of it by LDU where the inverse does not serve.
#pragma once

#include "../det_hvp.h"
#include "inverse.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename V, int kRows>
struct BlockHvp : BlockInverse<V, kRows, kHvpShapes<V>, true> {
  using Base = BlockInverse<V, kRows, kHvpShapes<V>, true>;
  using Base::kThreads;
  using typename Base::Found, typename Base::Exchange, typename Base::Space;
  using R = RealOf<V>;
  // Tiles as small as lanes are many.
  static constexpr int kLaneColumns = 8, kLaneRows = kThreads / kLaneColumns;
  static constexpr int kTileRows = 4 * kLaneRows >= kRows * kWarpSize ? 4 : 8;
  static_assert(kTileRows * kLaneRows >= kRows * kWarpSize);
  using Group = ProductGroup<V, kTileRows, kLaneRows, kLaneColumns>;

  struct Layout {
    Found* found;
    InverseFacts<V>* facts;
    V* w_column;
    V *x, *strip;
    Space space;  // A has the inverse as the sweep leaves it, then Z^T

    template <bool kCounts>
    TORCHDET_ANYWHERE Layout(Pieces<kCounts>& pieces, int n)
        : found(pieces.template take<Found>(1)),
          facts(pieces.template take<InverseFacts<V>>(1)),
          w_column(pieces.template take<V>(n)),
          x(pieces.template take<V>(Group::numbers_of_matrix(n))),
          strip(pieces.template take<V>(Group::numbers_of_strip(n))),
          space(pieces, n, static_cast<int>(sizeof(Exchange)), Group::rows_of(n)) {}
  };
  static size_t block_bytes(int64_t order) {
    const int n = static_cast<int>(order);
    Pieces<true> counter(nullptr);
    Layout(counter, n);
    Arena by_ldu(nullptr);
    TeamSpace<V>(by_ldu, n, Team<kThreads>::kAllSlotBytes);
    return maximum(counter.bytes, by_ldu.bytes);
  }

  TORCHDET_DEVICE static void run(const Problem& p) {
    const int64_t b = block_index();
    unsigned char* const memory = shared_memory<unsigned char>();
    Pieces<false> pieces(memory);
    const Layout layout(pieces, static_cast<int>(p.n));
    Team<kThreads> team(layout.space.vectors.slots);
    const auto write_fast = [&](const Scaled<V>& d) { return write(p, b, d, memory, team); };
    if (!Base::invert(p, b, *layout.found, layout.facts, layout.space, team, write_fast)) {
      sync_block();
      write_slow(p, b, memory);
    }
  }

 private:
  // d: the determinant of B'. The sweep has written the other facts.
  // The memory is cut again, since the sweep leaves no registers for the pointers.
  TORCHDET_DEVICE static bool write(const Problem& p, int64_t b, const Scaled<V>& d,
                                    unsigned char* memory, Team<kThreads>& team) {
    const int n = static_cast<int>(p.n);
    Pieces<false> pieces(memory);
    const Layout layout(pieces, n);
    const TeamVectors<V>& vectors = layout.space.vectors;
    const int stride = layout.space.A.stride;
    const int32_t largest = layout.found->largest;
    if (team.is_first()) {
      InverseFacts<V>& facts = *layout.facts;
      facts.equilibration = layout.found->eq;
      facts.determinant = d;
      facts.row = vectors.row_index[n - 1];
      facts.column = n - 1;
      facts.is_regular = 1;
    }
    Base::for_inverse(layout.space, [&](int i, int k, V x) { layout.x[i * stride + k] = x; });
    sync_block();
    const Group group(n, layout.space.A.data, layout.x, layout.strip);
    return write_hvp_by_inverse<V>(p, b, true, group, *layout.facts, from_leading_bits<R>(largest),
                                   vectors.row, vectors.column, layout.w_column,
                                   [&](auto x, auto combine) { return team.reduce(x, combine); });
  }

  TORCHDET_DEVICE static void write_slow(const Problem& p, int64_t b, unsigned char* memory) {
    Arena arena(memory);
    const TeamSpace<V> space(arena, static_cast<int>(p.n), Team<kThreads>::kAllSlotBytes);
    Team<kThreads> team(space.vectors.slots);
    TeamAlgorithms<V, kThreads> matrix(team, space);
    matrix.read(p.A, b);
    write_hvp(matrix, p, b, matrix.equilibrate());
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
