// Blocked elimination of one large matrix: the class "blocked".
//
// LU with partial pivoting, for determinants, and Gauss-Jordan elimination, for inverses, differ
// only in the rows and columns that they change. A panel is a run of columns. Its elimination
// chooses a pivot row r_c for each column c among the rows not used yet, and notes the multipliers
//     l_ic = b_ic / d_c, with d_c the pivot, for all rows i != r_c, used ones included.
// To any other column x of the matrix it does, u_a being the entry of row r_a when its turn comes,
//     u_a = x_{r_a} - sum_{c < a} l_{r_a, c} u_c,                                              (1)
//     x_i <- x_i - sum_c l_ic u_c           for the rows i that are no pivot rows of the panel, (2)
//     x_{r_a} <- u_a / d_a - sum_{c > a} l_{r_a, c} u_c,                                       (3)
// where (3) is (2) begun at 0, with the factors -1 / d_a for c = a and 0 for c < a. LU needs (1)
// and (2) for unused rows and later columns only. Gauss-Jordan applies all three to all rows and
// all columns, the panel's own too, in whose place it first puts the columns e_{r_c} of the
// identity: so they become the inverse,
//     (B^-1)_{k, r_j} = Z_{r_k, j}.                                                            (4)
// The multipliers are those of the unblocked algorithms, so no bound on growth is lost. No row is
// moved: rows are lists of indices.
//
// The last pivot S enters by multiplication only, x_ij <- S x_ij - x_ip x_rj, which gives S B^-1 at
// S = 0 too. A column that is zero in the unused rows depends on those before it and changes places
// with the last one; a second such column means that the rank is at most n - 2 and that all
// cofactors are zero. So an exactly singular matrix takes the same path as any other.
#pragma once

#include "panel.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename P>
class Elimination {
 public:
  using T = ScalarOf<P>;
  using Integer = typename Format<T>::Integer;
  using Number = NumberOf<P>;
  using M = RowMatrix<P>;

  const int64_t n;
  const M A;              // the matrix B, then S Z
  int32_t* const row;     // r_k
  int32_t* const column;  // which column of B is the one at position k

  Elimination(int64_t order, Arena& arena)
      : n(order),
        A(arena.take<P>(order * odd_packs(order)), order, odd_packs(order)),
        row(arena.take<int32_t>(order)),
        column(arena.take<int32_t>(order)),
        pivots_(arena.take<P>(A.packs)),
        panel_(order, arena),
        sources_(arena.take<P>(panel_.width * A.packs)),
        live_(arena.take<int32_t>(order)),
        changed_(arena.take<Changed>(order)),
        used_(arena.take<bool>(order)) {}

  Scaled<Number> determinant() {
    start();
    return eliminate<false>(n) ? signed_product(true) : Scaled<Number>{zero<Number>(), Integer(0)};
  }

  // Leaves S B^-1 in A, as (4) has it; false if all cofactors are zero.
  bool adjugate() {
    start();
    if (!eliminate<true>(n - 1)) {
      return false;
    }
    last_step();
    return true;
  }
  Number last_pivot() const { return get_number(pivots_, n - 1); }  // S

  // d_1 .. d_n, or without d_n, times the sign of the permutations. Forgets `used`.
  Scaled<Number> signed_product(bool with_last) const {
    const Number last = get_number(pivots_, n - 1);
    set_number(pivots_, n - 1, with_last ? last : one<Number>());
    Scaled<Number> d = product_of(pivots_, A.packs);
    set_number(pivots_, n - 1, last);
    bool odd = exchanged_;
    std::fill(used_, used_ + n, false);
    for (int64_t k = 0; k < n; ++k) {  // a cycle of even length is an odd permutation
      for (int64_t i = row[k]; !used_[k] && i != k; i = row[i]) {
        used_[i] = true;
        odd = !odd;
      }
    }
    d.mantissa = odd ? -d.mantissa : d.mantissa;
    return d;
  }

 private:
  static constexpr int W = M::W;

  // A row that an update changes, and its factors.
  struct Changed {
    P* packs;
    const T* factors;
  };

  P* const pivots_;  // d_k in lane k, and ones after the last
  Panel<P> panel_;
  P* const sources_;     // u of all columns, in strips of kTilePacks packs
  int32_t* const live_;  // the rows that take part
  Changed* const changed_;
  bool* const used_;        // rows that have been chosen
  int64_t rows_ = 0;        // how many there are in live_
  bool exchanged_ = false;  // whether the last column has changed places

  // An odd stride spreads the rows over all sets of the cache.
  static int64_t odd_packs(int64_t order) { return M::packs_for(order) | 1; }

  void start() {
    for (int64_t i = 0; i < n; ++i) {
      live_[i] = column[i] = static_cast<int32_t>(i);
      used_[i] = false;
    }
    std::fill(pivots_, pivots_ + A.packs, one<P>());
    rows_ = n;
    exchanged_ = false;
  }

  // Columns [0, last). LU ends at a column without a pivot, Gauss-Jordan at the second one: false.
  template <bool kInverse>
  bool eliminate(int64_t last) {
    for (int64_t begin = 0; begin < last;) {
      const int64_t first = begin / panel_.width * panel_.width;
      const int64_t end = std::min(first + panel_.width, last);
      panel_.load(A, live_, rows_, used_, first / W, begin - first, end - first);
      const int64_t found = panel_.template eliminate<kInverse>(begin - first, end - first);
      const bool stopped = found < end - begin;
      if (stopped && (!kInverse || exchanged_)) {
        return false;
      }
      if (found > 0) {
        note_pivots(first, begin, found);
        update<kInverse>(first, begin, found);
      }
      begin += found;
      if (stopped) {
        exchange_with_last(begin);
      }
    }
    return true;
  }

  void note_pivots(int64_t first, int64_t begin, int64_t count) {
    for (int64_t k = begin; k < begin + count; ++k) {
      row[k] = live_[panel_.place[k - first]];
      used_[row[k]] = true;
      set_number(pivots_, k, get_number(panel_.pivots, k - first));
    }
  }

  void exchange_with_last(int64_t j) {
    for (int64_t i = 0; i < n; ++i) {
      const Number x = A.get(i, j);
      A.set(i, j, A.get(i, n - 1));
      A.set(i, n - 1, x);
    }
    std::swap(column[j], column[n - 1]);
    exchanged_ = true;
  }

  template <bool kInverse>
  void update(int64_t first, int64_t begin, int64_t count) {
    if (kInverse) {
      put_identity(begin, count);
    }
    const int64_t slot = begin - first;
    const int64_t pack = kInverse ? 0 : M::packs_for(begin + count);
    if (pack == A.packs) {
      return;
    }
    const int64_t strips = (A.packs - pack + kTilePacks<P> - 1) / kTilePacks<P>;
    parallel(strips, count * count * kTilePacks<P> * W / 2, [&](int64_t from, int64_t to) {
      for_strips(pack, from, to, [&](int64_t p, int64_t packs, P* u) {
        for (int64_t a = 0; a < count; ++a) {
          P* const x = A.row(row[begin + a]) + p;
          for (int64_t q = 0; q < packs; ++q) {
            u[a * packs + q] = x[q];
            x[q] = kInverse ? zero<P>() : x[q];  // where (3) begins
          }
        }
        panel_.template solve<kInverse>(u, packs, slot, slot + count);
      });
    });
    int64_t changed = 0;
    for (int64_t i = 0; i < rows_; ++i) {
      const int32_t r = live_[i];
      changed_[changed] = {A.row(r), panel_.factors(i) + slot * Panel<P>::kFactorStride};
      live_[changed] = r;
      changed += kInverse || !used_[r];  // no branch: it could not be foretold
    }
    rows_ = changed;
    const bool fetch_ahead = n * A.packs * static_cast<int64_t>(sizeof(P)) >= kLeastFetchedAhead;
    parallel(changed, count * (A.packs - pack) * W, [&](int64_t begin, int64_t end) {
      for (int64_t rows; begin < end; begin += rows) {
        rows = std::min<int64_t>(kTilesInCache * kTileRows, end - begin);
        for_strips(pack, 0, strips, [&](int64_t p, int64_t packs, const P* u) {
          const Changed* const from = changed_ + begin;
          subtract_rows<P>(
              rows, packs, [&](int64_t m) { return from[m].packs + p; },
              [&](int64_t m) { return from[m].factors; }, Panel<P>::kFactorStride, u, packs, count,
              fetch_ahead);
        });
      }
    });
  }

  // body(begin, end) for parts of [0, count) that each are worth a thread, where one of them takes
  // so many multiply-adds.
  template <typename Body>
  static void parallel(int64_t count, int64_t operations, Body body) {
    parallel_parts(count, kGrainOfMatrix / operations + 1, &body,
                   [](void* context, int64_t begin, int64_t end) {
                     (*static_cast<Body*>(context))(begin, end);
                   });
  }

  // body(p, packs, u) for strips [begin, end) of the columns from a pack on: packs [p, p + packs),
  // whose u lie at u.
  template <typename Body>
  void for_strips(int64_t pack, int64_t begin, int64_t end, Body body) {
    for (int64_t s = begin; s < end; ++s) {
      const int64_t p = pack + s * kTilePacks<P>;
      body(p, std::min<int64_t>(kTilePacks<P>, A.packs - p), sources_ + (p - pack) * panel_.width);
    }
  }

  void put_identity(int64_t begin, int64_t count) {
    using I = IntegerOf<P>;
    for (int64_t v = begin / W; v * W < begin + count; ++v) {
      const auto before = greater(I(Integer(begin - v * W)), lane_numbers<P>());
      const auto after = greater(lane_numbers<P>(), I(Integer(begin + count - 1 - v * W)));
      for (int64_t i = 0; i < n; ++i) {
        A.row(i)[v] = select(mask_or(before, after), A.row(i)[v], zero<P>());
      }
    }
    for (int64_t k = begin; k < begin + count; ++k) {
      A.set(row[k], k, one<Number>());
    }
  }

  void last_step() {
    const int64_t p = n - 1, r = std::find(used_, used_ + n, false) - used_;
    row[p] = static_cast<int32_t>(r);
    const Number last = A.get(r, p);
    set_number(pivots_, p, last);
    const P S = broadcast<P>(last);
    for (int64_t i = 0; i < n; ++i) {
      if (i != r) {
        const Number x = A.get(i, p);
        for (int64_t v = 0; v < A.packs; ++v) {
          A.row(i)[v] = fnma(broadcast<P>(x), A.row(r)[v], A.row(i)[v] * S);
        }
        A.set(i, p, -x);
      }
    }
    A.set(r, p, one<Number>());
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
