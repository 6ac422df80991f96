// Hessian-vector products of det in the class "warp": the sweep inverts as many matrices as it does
// for cofactors, and the products are made of one or a few of them at a time (products.h). The few
// matrices for which the inverse does not serve are done again by LDU, one after the other.
#pragma once

#include "../det_hvp.h"
#include "kernels.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// Blocks of two warps, since shared memory is scarce.
template <typename V>
constexpr WarpShape hvp_shape(int n) {
  const int rows = cofactor_shape<V>(n).rows;
  return {rows, 64, sizeof(V) == 4 ? (n == 24 ? 4 : 6) : sizeof(V) == 8 && n <= 8 ? 6 : 4};
}

template <typename V, int N>
struct WarpHvp : WarpKernel<V, N, hvp_shape<V>(N)> {
  using Base = WarpKernel<V, N, hvp_shape<V>(N)>;
  using Matrix = typename Base::Matrix;
  using Lists = SweepLists<V, N>;
  using Group = WarpProducts<V, N>;
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  static constexpr int kPerWarp = Matrix::kPerWarp, kGroups = kWarpSize / Group::kLanes;

  struct Facts : InverseFacts<V> {
    R largest;  // of B
    int is_done;
  };
  // Of a warp: of all its matrices, and of those that are multiplied at a time.
  struct Space {
    V* lines;
    Lists* lists;
    Facts* facts;
    V *x, *z, *w_column;

    template <bool kCounts>
    TORCHDET_ANYWHERE Space(Pieces<kCounts>& pieces, int n)
        : lines(pieces.template take<V>(Matrix::kLineBytes / sizeof(V))),
          lists(pieces.template take<Lists>(kPerWarp)),
          facts(pieces.template take<Facts>(kPerWarp)),
          x(pieces.template take<V>(kPerWarp * numbers_of_matrix(n))),
          z(pieces.template take<V>(kGroups * numbers_of_matrix(n))),
          w_column(pieces.template take<V>(kGroups * N)) {}
  };
  // A word more makes matrices an odd number of words apart, for the sake of the banks.
  TORCHDET_ANYWHERE static int numbers_of_matrix(int n) {
    return Group::numbers_of_matrix(n) + Group::kCount;
  }
  TORCHDET_ANYWHERE static size_t warp_bytes(int64_t order) {
    const int n = static_cast<int>(order);
    Pieces<true> counter(nullptr);
    Space(counter, n);
    return maximum(counter.bytes, WarpSpace<V>::count_bytes(n));
  }
  static size_t block_bytes(int64_t n) { return Base::kWarps * warp_bytes(n); }

  TORCHDET_DEVICE static void run(const Problem& p) {
    const int n = static_cast<int>(p.n), lane = thread_index() % kWarpSize;
    const int64_t first = Base::first_matrix(thread_index());
    if (first >= p.batch) {
      return;
    }
    unsigned char* const memory =
        shared_memory<unsigned char>() + thread_index() / kWarpSize * warp_bytes(n);
    Pieces<false> pieces(memory);
    const Space space(pieces, n);
    invert(p, space);
    sync_warp();
    TORCHDET_ROLL
    for (int begin = 0; begin < kPerWarp; begin += kGroups) {
      multiply(p, space, first, begin + lane / Group::kLanes);
    }
    sync_warp();
    const bool is_done =
        lane >= kPerWarp || first + lane >= p.batch || space.facts[lane].is_done != 0;
    for_matrices_left<kPerWarp, 1>(p, first, is_done,
                                   [&](int64_t b) { write_hvp_by_ldu<V>(p, b, memory); });
  }

 private:
  // X of all matrices of the warp, and the facts.
  TORCHDET_DEVICE static void invert(const Problem& p, const Space& space) {
    Matrix matrix(static_cast<int>(p.n), space.lines);
    const int n = matrix.n;
    Lists& lists = space.lists[matrix.group];
    WarpSweep<Matrix> sweep(matrix, lists);
    R largest = 0;
    I e = 0;
    eliminate_in_range(
        matrix, p.A, [&] { return Base::matrix(p); }, lists.row_exponent, lists.column_exponent,
        [&] {
          largest = matrix.largest();
          e = largest > R(0) ? exponent_of(largest) + kAboveEntries : I(0);
          return sweep.run([&](V) { return scale_pow2(one<V>(), e); });
        });
    const bool is_finite =
        sweep.store({one<V>(), -e}, false, false, space.x + matrix.group * numbers_of_matrix(n),
                    block_stride<V>(n));
    Equilibration<V> eq = matrix.equilibration();
    eq.is_identity = !matrix.is_scaled();
    const int is_regular =
        matrix.reduce(is_finite && sweep.is_regular() && eq.poison == R(0) ? 1 : 0,
                      [](int x, int y) { return x & y; });
    if (matrix.is_first()) {
      Facts& facts = space.facts[matrix.group];
      const Scaled<V> before = sweep.before_last();
      facts.equilibration = eq;
      facts.determinant = {before.mantissa, before.exponent + e};
      facts.ratio = scale_pow2(sweep.last_pivot(), -e);
      facts.exponent = e;
      facts.row = n - 1;
      facts.column = lists.row[n - 1];
      facts.is_regular = is_regular;
      facts.last_of_E[0] = component_size(lists.pivot[n - 2]);
      facts.last_of_E[1] = component_size(lists.pivot[n - 3]);
      facts.largest = largest;
    }
  }

  // By each group for one matrix of the warp: the last one once more, without a result, where it
  // has none.
  TORCHDET_DEVICE static void multiply(const Problem& p, const Space& space, int64_t first,
                                       int own) {
    const int n = static_cast<int>(p.n), t = minimum(own, kPerWarp - 1);
    const bool is_there = own < kPerWarp && first + own < p.batch;
    const int64_t b = first + t < p.batch ? first + t : p.batch - 1;
    const int index = thread_index() % kWarpSize / Group::kLanes;
    const Group group(n, space.z + index * numbers_of_matrix(n), space.x + t * numbers_of_matrix(n),
                      nullptr);
    const auto reduce = [](auto x, auto combine) {
      TORCHDET_UNROLL
      for (int mask = Group::kLanes / 2; mask > 0; mask /= 2) {
        x = combine(x, shuffle_xor(x, mask));
      }
      return x;
    };
    Facts& facts = space.facts[t];
    const Lists& lists = space.lists[t];
    const bool is_done =
        write_hvp_by_inverse<V>(p, b, is_there, group, facts, facts.largest, lists.row_exponent,
                                lists.column_exponent, space.w_column + index * N, reduce);
    if (is_there && group.rank == 0) {
      facts.is_done = is_done ? 1 : 0;
    }
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
