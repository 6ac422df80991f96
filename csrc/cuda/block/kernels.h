// Kernels of the class "block": one matrix per block, in shared memory.
//
// det and slogdet: P B = L U. Cofactors: det(B) B^-T by block/sweep.h, which fails only where a
// pivot is exactly zero, the pivots grow, or the inverse leaves the range of the format: such a
// matrix is done again by the rank-revealing LDU of its block, with the result's own memory as the
// second matrix that it needs.
#pragma once

#include "factor.h"
#include "inverse.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

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
          space(pieces, n, slot_bytes(n), n),
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
struct BlockCofactors : BlockInverse<V, kRows, kCofactorShapes<V>, false> {
  using Base = BlockInverse<V, kRows, kCofactorShapes<V>, false>;
  using Base::kThreads;
  using typename Base::Found, typename Base::Exchange, typename Base::Space;
  using R = RealOf<V>;
  using I = IntegerOf<V>;

  // The slots take the exchange of the sweep, and in write_slow exponents.
  TORCHDET_ANYWHERE static int slot_bytes(int n) {
    return static_cast<int>(maximum(sizeof(Exchange), n * sizeof(I)));
  }
  struct Layout {
    Found* found;
    Space space;

    template <bool kCounts>
    TORCHDET_ANYWHERE Layout(Pieces<kCounts>& pieces, int n)
        : found(pieces.template take<Found>(1)), space(pieces, n, slot_bytes(n), n) {}
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
    const Space& space = layout.space;
    Team<kThreads> team(space.vectors.slots);
    const auto write_fast = [&](const Scaled<V>& d) {
      // C(B) = d B^-T; slogdet divides by d again, so there it is left out.
      Scaled<V> factor = gradient_factor(p, b, scaled_one<V>(), layout.found->eq.total);
      factor = p.op == Op::kSlogdetBackward ? factor : factor * d;
      const int finite = write(p, b, space, factor, layout.found->eq) ? 1 : 0;
      return team.reduce(finite, [](int x, int y) { return x & y; }) != 0;
    };
    if (!Base::invert(p, b, *layout.found, nullptr, space, team, write_fast)) {
      write_slow(p, b, space, team);
    }
  }

 private:
  // B^-T times the factor is the result. Whether B^-T is finite, as far as this thread sees.
  TORCHDET_DEVICE static bool write(const Problem& p, int64_t b, const Space& space,
                                    const Scaled<V>& factor, const Equilibration<V>& eq) {
    const TeamVectors<V>& vectors = space.vectors;
    const bool is_conjugate = p.op != Op::kCofactor, is_scaled = !eq.is_identity;
    const int n = static_cast<int>(p.n);
    V* const out = static_cast<V*>(p.out) + b * n * n;
    R check = 0;
    // Where nothing is scaled, there is no poison, and where the power of two is a number of the
    // format, scale_pow2 multiplies by it alone: the same bits in fewer instructions.
    constexpr int kMost = Format<ScalarOf<V>>::kMaxExponent - 1;
    if (!is_scaled && factor.exponent >= -kMost && factor.exponent <= kMost) {
      const R power = exact_pow2<R>(IntegerOf<R>(factor.exponent));
      Base::for_inverse(space, [&](int i, int k, V x) {
        check = add_nothing(x, check);
        const V scaled = x * factor.mantissa * power;
        out[i * n + k] = is_conjugate ? conj(scaled) : scaled;
      });
    } else {
      Base::for_inverse(space, [&](int i, int k, V x) {
        check = add_nothing(x, check);
        const I exponent = is_scaled ? vectors.row[i] + vectors.column[k] : I(0);
        const V scaled = scale_pow2(x * factor.mantissa, factor.exponent + exponent);
        out[i * n + k] = add_poison(is_conjugate ? conj(scaled) : scaled, eq.poison);
      });
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
