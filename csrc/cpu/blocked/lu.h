// P B Q = L D U with partial pivoting, of one large matrix, by panels: the class "blocked".
//
// A panel is a run of columns. Its elimination chooses a pivot row r_c for each column c among the
// rows not used yet, and notes the multipliers l_ic = b_ic / d_c, with d_c the pivot, of the rows
// that stay unused. To any later column x it does
//     u_a = x_{r_a} - sum_{c < a} l_{r_a, c} u_c,                                              (1)
//     x_i <- x_i - sum_c l_ic u_c           for the rows i that stay unused.                    (2)
// No row is moved: rows are lists of indices.
//
// A column that is zero in the unused rows depends on those before it. It changes places with the
// last one (Q), whose pivot is then 0; a second such column means that the rank is at most n - 2.
#pragma once

#include "../matrix/parallel.h"
#include "panel.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename P>
class BlockedLu {
 public:
  using T = ScalarOf<P>;
  using I = IntegerOf<P>;
  using Integer = typename Format<T>::Integer;
  using Number = NumberOf<P>;
  using M = RowMatrix<P>;

  const M A;           // the matrix B; overwritten
  const int64_t n;     // its order
  int32_t* const row;  // r_k
  int32_t exchanged;   // the column that the last one has changed places with

  BlockedLu(const M& matrix, Arena& arena)
      : A(matrix),
        n(A.n),
        row(arena.take<int32_t>(n)),
        exchanged(0),
        pivots_(arena.take<P>(A.packs)),
        panel_(n, arena),
        sources_(arena.take<P>(panel_.width * A.packs)),
        live_(arena.take<int32_t>(n)),
        changed_(arena.take<Changed>(n)),
        seen_(arena.take<bool>(n)),
        rows_(0) {}

  Scaled<Number> determinant() {
    return eliminate<false>() ? product() : Scaled<Number>{zero<Number>(), Integer(0)};
  }
  // Leaves the factors for read_factors; false if the rank is at most n - 2.
  bool factor() { return eliminate<true>(); }

  // det B.
  Scaled<Number> product() const {
    Scaled<Number> d = product_of(pivots_, A.packs);
    d.mantissa = d.mantissa * sign();
    return d;
  }
  // Of P and Q.
  T sign() const {
    bool odd = exchanged < n - 1;
    std::fill(seen_, seen_ + n, false);
    for (int64_t k = 0; k < n; ++k) {  // a cycle of even length is an odd permutation
      for (int64_t i = row[k]; !seen_[k] && i != k; i = row[i]) {
        seen_[i] = true;
        odd = !odd;
      }
    }
    return odd ? T(-1) : T(1);
  }

  // body(k, row) with row k of L, below the diagonal, and D U, from the diagonal on.
  template <typename Body>
  void read_factors(Body body) const {
    parallel(n, A.packs * W, kGrainOfMatrix, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        body(k, A.row(row[k]));
      }
    });
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
  bool* const seen_;
  int64_t rows_;  // how many there are in live_

  // With kStore the factors are kept. False where a pivot is missing: without kStore in a first
  // column, with kStore in a second one.
  template <bool kStore>
  bool eliminate() {
    for (int64_t i = 0; i < n; ++i) {
      live_[i] = static_cast<int32_t>(i);
    }
    std::fill(pivots_, pivots_ + A.packs, one<P>());
    rows_ = n;
    exchanged = static_cast<int32_t>(n - 1);
    for (int64_t begin = 0, end; begin < n; begin = end) {
      const int64_t first = begin / panel_.width * panel_.width;
      const int64_t last = std::min(first + panel_.width, n);
      panel_.load(A, live_, rows_, first / W, begin - first, last - first);
      end = begin + panel_.eliminate(begin - first, last - first);
      const bool stopped = end < last, is_last = end == n - 1;
      if (stopped && (!kStore || (!is_last && exchanged < n - 1))) {
        return false;
      }
      for (int64_t k = begin; k < end; ++k) {
        row[k] = live_[panel_.pivot_position[k - first]];
        set_number(pivots_, k, get_number(panel_.pivots, k - first));
      }
      // After a stop the update begins in the pack where the panel ends. That pack has columns of
      // the panel too; `store` overwrites them with the right numbers.
      update<kStore>(begin, end, begin - first, stopped ? end / W : M::packs_for(end));
      if (kStore) {
        panel_.store(A, live_, rows_, first / W, begin - first, end - first);
      }
      take_rows_left();
      if (stopped) {
        exchange_with_last(end);
      }
      if (stopped && is_last) {
        row[end++] = live_[0];
      }
    }
    return true;
  }

  // (1) and (2) for the packs from one on by the pivots [begin, end), whose slots begin at `slot`.
  template <bool kStore>
  void update(int64_t begin, int64_t end, int64_t slot, int64_t pack) {
    const int64_t count = end - begin;
    if (count == 0 || pack == A.packs) {
      return;
    }
    const int64_t strips = (A.packs - pack + kTilePacks<P> - 1) / kTilePacks<P>;
    parallel(strips, count * count * kTilePacks<P> * W / 2, kGrainOfMatrix,
             [&](int64_t from, int64_t to) {
               for_strips(pack, from, to, [&](int64_t p, int64_t packs, P* u) {
                 for (int64_t a = 0; a < count; ++a) {
                   const P* const x = A.row(row[begin + a]) + p;
                   std::copy(x, x + packs, u + a * packs);
                 }
                 panel_.solve(u, packs, slot, slot + count);
                 for (int64_t a = 0; kStore && a < count; ++a) {
                   std::copy(u + a * packs, u + (a + 1) * packs, A.row(row[begin + a]) + p);
                 }
               });
             });
    int64_t changed = 0;
    for (int64_t i = 0; i < rows_; ++i) {
      changed_[changed] = {A.row(live_[i]), panel_.factors(i) + slot * Panel<P>::kFactorStride};
      changed += panel_.is_unused(i);  // no branch: the processor could not predict it
    }
    const bool fetch_ahead = n * A.packs * static_cast<int64_t>(sizeof(P)) >= kLeastFetchedAhead;
    parallel(changed, count * (A.packs - pack) * W, kGrainOfMatrix,
             [&](int64_t begin, int64_t end) {
               for (int64_t rows; begin < end; begin += rows) {
                 rows = std::min<int64_t>(kTilesInCache * kTileRows, end - begin);
                 for_strips(pack, 0, strips, [&](int64_t p, int64_t packs, const P* u) {
                   const Changed* const from = changed_ + begin;
                   subtract_rows<P>(
                       rows, packs, [&](int64_t m) { return from[m].packs + p; },
                       [&](int64_t m) { return from[m].factors; }, Panel<P>::kFactorStride, 0, u,
                       packs, count, fetch_ahead);
                 });
               }
             });
  }

  void take_rows_left() {
    int64_t left = 0;
    for (int64_t i = 0; i < rows_; ++i) {
      live_[left] = live_[i];
      left += panel_.is_unused(i);
    }
    rows_ = left;
  }

  // Column j, which is zero in the rows left.
  void exchange_with_last(int64_t j) {
    for (int64_t i = 0; i < n; ++i) {
      const Number x = A.get(i, j);
      A.set(i, j, A.get(i, n - 1));
      A.set(i, n - 1, x);
    }
    for (int64_t i = 0; i < rows_; ++i) {
      A.set(live_[i], n - 1, zero<Number>());
    }
    set_number(pivots_, n - 1, zero<Number>());
    exchanged = std::min(exchanged, static_cast<int32_t>(j));
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
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
