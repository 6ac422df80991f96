// Gauss-Jordan elimination with the rows of a matrix in SIMD packs: the class "rows".
//
// The pivot of step k is the largest entry of row k in the columns not used yet, p = p_k. With
// l_j = b_kj / b_kp, a step of the determinant subtracts b_ip l from every row i > k. A step of the
// inverse (a sweep: Goodnight, "A tutorial on the SWEEP operator", 1979) does so in all rows i != k
// and exchanges the roles of b_k and x_p in y = B x:
//     b_ij <- b_ij - b_ip l_j,   b_ip <- -b_ip / b_kp,   b_kj <- l_j,   b_kp <- 1 / b_kp,
// so that in the end Z = (b_kj) is the inverse with its rows and columns permuted,
//     (B^-1)_{p_k, s} = Z_{k, p_s}. (1)
// No column moves: the permutation is a list of columns, and a step is a search along one row and a
// multiply-add of it to the others. Column p is stored without its factor -1 / b_kp, which all its
// entries share: b_ip stays as it is and b_kp becomes -1.
//
// The last pivot S enters by multiplication only: b_ij <- S b_ij - b_ip b_kj, b_ip <- -b_ip, b_k
// stays and b_kp <- 1 give S B^-1, hence
//     C(B)^T = sgn d_1 .. d_{n-1} (S B^-1), (2)
// at S = 0 too. A row that is zero in the unused columns depends on those before it and steps back
// behind the others; where two such rows are left, the rank is at most n - 2 and all cofactors are
// zero. So an exactly singular matrix takes the same path and the same time as any other.
//
// Two steps share one pass over the rows, which halves the loads and stores that limit it; each
// entry gets the same operations as in two passes. Where rows are long, four rows share the loads
// of l, or four steps a pass (matrix/strip_update.h). And as the search for a pivot is a chain of
// dependent operations some 40 cycles long, kGroup matrices advance side by side. A determinant
// needs no used column again: when the unused columns fit in fewer packs, they are copied side by
// side, and the elimination continues on that smaller matrix.
#pragma once

#include "state.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename P, int kPacks, int kMaxPacks, int kGroup>
class GaussJordan : public EliminationState<P, kPacks, kMaxPacks, kGroup> {
 public:
  using State = EliminationState<P, kPacks, kMaxPacks, kGroup>;
  using State::facts, State::is_column, State::kLongRows, State::kParts, State::matrix, State::n,
      State::packs, State::row, State::State, State::W;
  using typename State::Bits, typename State::Facts, typename State::I, typename State::Integer,
      typename State::Number, typename State::R, typename State::T;

  // Reads matrices first .. of the batch, equilibrated.
  TORCHDET_LANE void read(const BatchView& view, int64_t first) {
    for (int m = 0; m < kGroup; ++m) {
      read_matrix<kPacks>(view, first + m, matrix(m));
      I largest_of_column[kMaxPacks];
      equilibrate_rows<kPacks>(matrix(m), facts[m].frame, largest_of_column);
    }
  }

  // Eliminates them. kInverse: Z before its last step; otherwise only the pivots, and, where `kept`
  // is given, what rows/second_half.h finds Z from: n x n numbers for each matrix.
  template <bool kInverse>
  [[gnu::noinline]] void run(Number* kept = nullptr) {
    kept_ = kept;
    for (int m = 0; m < kGroup; ++m) {
      start(facts[m]);
    }
    for (int k = 0; k < n;) {
      if constexpr (!kInverse && kFewerPacks > 0) {
        if (kept == nullptr && packs() > kFewerPacks && n - k <= kFewerPacks * W) {
          go_on_with_fewer_packs(k);
          return;
        }
      }
      if constexpr (kLongRows.by_strips) {
        if (k + Strips::kSteps < n) [[likely]] {
          k += advance_by_strips<kInverse>(k);
          continue;
        }
      }
      k += advance<kInverse>(k);
    }
  }

 private:
  using typename State::Strips;
  template <int kValue>
  using Constant = typename State::template Constant<kValue>;
  using State::broadcast_at, State::store_pivot_row, State::subtract;
  static constexpr int kFewerPacks =
      fewer_packs(kVectorBytes, kPacks > 0 ? kPacks : kMaxPacks, sizeof(T), kIsComplex<P>);
  Number* kept_ = nullptr;

  TORCHDET_LANE void start(Facts& f) const {
    f.unused = ~Bits(0) >> (8 * static_cast<int>(sizeof(Bits)) - n);
    f.odd = f.no_cofactors = f.zero_pivot = false;
    for (int k = 0; k < n; ++k) {
      f.row[k] = k;
    }
    for (int v = 0; v < packs(); ++v) {
      f.pivot[v] = one<P>();
    }
  }

  // Steps k .. n - 1 of a determinant, with unused columns only.
  [[gnu::noinline]] void go_on_with_fewer_packs(int k) {
    // In place: step k > 0, so a row moves to where only rows before it were.
    GaussJordan<P, kFewerPacks, kFewerPacks, kGroup> rest(n - k, row(0, 0));
    int first[kGroup][kMaxPacks];  // unused columns before pack v
    for (int m = 0; m < kGroup; ++m) {
      for (int v = 0; v < packs(); ++v) {
        const Bits before = (Bits(1) << (v * W)) - 1;
        first[m][v] = count_bits(facts[m].unused & before);
      }
    }
    for (int i = k; i < n; ++i) {
      for (int m = 0; m < kGroup; ++m) {
        T* const to = reinterpret_cast<T*>(rest.row(i - k, m));
        for (int v = 0; v < packs(); ++v) {  // zeros behind them, as padding
          const auto unused = static_cast<uint64_t>(facts[m].unused >> (v * W));
          store_chosen(to + first[m][v], row(i, m)[v], unused);
        }
      }
    }
    rest.template run<false>();
    for (int m = 0; m < kGroup; ++m) {
      for (int j = 0; j < n - k; ++j) {
        set_number(facts[m].pivot, k + j, get_number(rest.facts[m].pivot, j));
      }
      facts[m].odd ^= rest.facts[m].odd;
    }
  }

  // Step k, and step k + 1 where it can be done in the same pass; returns how many.
  template <bool kInverse>
  TORCHDET_LANE int advance(int k) {
    P l[kGroup][kMaxPacks], l2[kGroup][kMaxPacks], link[kGroup];
    int64_t offset[kGroup], offset2[kGroup];
    for (int m = 0; m < kGroup; ++m) {
      if (!take_pivot(k, m, l[m]) && kInverse && k + 1 < n) [[unlikely]] {
        facts[m].no_cofactors = facts[m].no_cofactors || !step_back(k, m, l[m]);
      }
    }
    if (k + 1 == n) {
      for (int m = 0; m < kGroup && !kInverse; ++m) {
        keep_row(k, m, row(k, m));
      }
      return 1;
    }
    for (int m = 0; m < kGroup; ++m) {
      offset[m] = m * packs() * W * kParts + offset_of<P>(facts[m].column[k]);
      subtract(row(k + 1, m), broadcast_at(row(k + 1, 0), offset[m]), l[m]);
    }
    bool second = k + 2 < n;
    if (second) {
      for (int m = 0; m < kGroup; ++m) {
        second = (take_pivot(k + 1, m, l2[m]) || !kInverse) && second;
      }
      for (int m = 0; m < kGroup && !second; ++m) {
        give_back_pivot(k + 1, m);
      }
    }
    if (!second) [[unlikely]] {
      const auto update = [&](int i, auto) {
        for (int m = 0; m < kGroup; ++m) {
          subtract(row(i, m), broadcast_at(row(i, 0), offset[m]), l[m]);
        }
      };
      for_others<kInverse, 1>(k, k + 2, update);
      for (int m = 0; m < kGroup; ++m) {
        finish_row<kInverse>(k, m, l[m]);
      }
      return 1;
    }
    // b_i - f l - g l2 with f = b_ip and g = (b_i - f l)_q, q the second pivot's column.
    for (int m = 0; m < kGroup; ++m) {
      const int64_t q = offset_of<P>(facts[m].column[k + 1]);
      offset2[m] = m * packs() * W * kParts + q;
      link[m] = broadcast_at(l[m], q);
    }
    const auto update = [&]<int kRows>(int i, Constant<kRows>) {
      for (int m = 0; m < kGroup; ++m) {
        P f[kRows], g[kRows];
        for (int r = 0; r < kRows; ++r) {
          f[r] = broadcast_at(row(i + r, 0), offset[m]);
          g[r] = fnma(f[r], link[m], broadcast_at(row(i + r, 0), offset2[m]));
        }
        for (int v = 0; v < packs(); ++v) {
          const P source = l[m][v], source2 = l2[m][v];
          for (int r = 0; r < kRows; ++r) {
            P& x = row(i + r, m)[v];
            x = fnma(g[r], source2, fnma(f[r], source, x));
          }
        }
      }
    };
    for_others<kInverse, kLongRows.together>(k, k + 2, update);
    for (int m = 0; m < kGroup; ++m) {
      finish_row<kInverse>(k, m, l[m]);
      if constexpr (kInverse) {
        subtract(row(k, m), broadcast_at(row(k, 0), offset2[m]), l2[m]);
      }
      finish_row<kInverse>(k + 1, m, l2[m]);
    }
    return 2;
  }

  // Steps k .. k + 3 in one pass, those of the inverse before the first that finds no pivot;
  // returns how many.
  template <bool kInverse>
  TORCHDET_LANE int advance_by_strips(int k) {
    Strips strips;
    int32_t p[Strips::kSteps] = {};
    const auto step = [&](int i, int s) {
      subtract(row(i, 0), broadcast<P>(get_number(row(i, 0), p[s])), strips.l[s]);
    };
    int taken = 0, updated = k + Strips::kSteps;
    for (; taken < Strips::kSteps; ++taken) {
      const int next = k + taken;
      for (int s = 0; s < taken; ++s) {
        step(next, s);
      }
      if (!take_pivot(next, 0, strips.l[taken]) && kInverse) [[unlikely]] {
        give_back_pivot(next, 0);
        updated = next + 1;
        break;
      }
      p[taken] = facts[0].column[next];
    }
    if (taken == 0) [[unlikely]] {
      return advance<kInverse>(k);
    }
    for (int s = taken; s < Strips::kSteps; ++s) {  // steps that change nothing
      std::fill_n(strips.l[s], packs(), zero<P>());
    }
    strips.solve(matrix(0), p, kInverse ? 0 : updated, n);
    strips.update(matrix(0), updated, n);
    if constexpr (kInverse) {
      strips.update(matrix(0), 0, k);
    }
    for (int s = 0; s < taken; ++s) {
      for (int e = 0; e < s && kInverse; ++e) {
        step(k + e, s);
      }
      finish_row<kInverse>(k + s, 0, strips.l[s]);
    }
    return taken;
  }

  // The rows that a pass updates. Those to come first: the search for the next pivot then runs
  // beside the rest of the pass.
  template <bool kInverse, int kTogether, typename Update>
  TORCHDET_LANE void for_others(int done, int next, Update update) const {
    State::template for_rows<kTogether>(next, n, update);
    if constexpr (kInverse) {
      State::template for_rows<kTogether>(0, done, update);
    }
  }

  // Row k, when its step is done.
  template <bool kInverse>
  TORCHDET_LANE void finish_row(int k, int m, const P* l) const {
    if constexpr (kInverse) {
      store_pivot_row(k, m, l);
    } else {
      keep_row(k, m, l);
    }
  }
  // l, with the pivot in its place.
  TORCHDET_LANE void keep_row(int k, int m, const P* l) const {
    if (kept_ == nullptr) {
      return;
    }
    Number* const to = kept_ + (int64_t(m) * n + k) * n;
    for (int v = 0; v < packs(); ++v) {
      store_numbers(reinterpret_cast<T*>(to + v * W), l[v], n - v * W);
    }
    const int p = facts[m].column[k];
    to[p] = get_number(row(k, m), p);
  }

  // Chooses p_k and computes l, with l_p = 0. False if row k is zero in the unused columns: then l
  // = 0, and the column is taken all the same by the determinant, which is zero, and by the last
  // step.
  TORCHDET_LANE bool take_pivot(int k, int m, P* l) {
    Facts& f = facts[m];
    const P* x = row(k, m);
    I size[kMaxPacks];
    I largest = I(0);
    for (int v = 0; v < packs(); ++v) {
      const auto unused = mask_of_bits(static_cast<uint64_t>(f.unused >> (v * W)), I());
      size[v] = select(unused, bits_of(pivot_size(x[v])), I(0));
      largest = maximum(largest, size[v]);
    }
    largest = fold_lanes(largest, [](I a, I b) { return maximum(a, b); });
    Bits candidates = 0;
    for (int v = 0; v < packs(); ++v) {
      candidates |= Bits(lane_bits(equal(size[v], largest))) << (v * W);
    }
    const int p = lowest_bit(candidates & f.unused);
    const Bits column = Bits(1) << p;
    f.column[k] = p;
    f.odd ^= is_odd(f.unused & (column - 1));
    f.unused ^= column;
    const Number pivot = get_number(x, p);
    set_number(f.pivot, k, pivot);
    if (largest[0] == 0) [[unlikely]] {
      f.zero_pivot = f.zero_pivot || k + 1 < n;
      for (int v = 0; v < packs(); ++v) {
        l[v] = zero<P>();
      }
      return false;
    }
    divide(x, pivot, from_bits(largest), l);
    for (int v = 0; v < packs(); ++v) {
      l[v] = select(is_column(p, v), zero<P>(), l[v]);
    }
    return true;
  }
  TORCHDET_LANE void give_back_pivot(int k, int m) {
    Facts& f = facts[m];
    const Bits column = Bits(1) << f.column[k];
    f.unused ^= column;
    f.odd ^= is_odd(f.unused & (column - 1));
  }

  // l = x / pivot. Division by the modulus, which the search leaves in all lanes, need not wait for
  // the pivot itself.
  TORCHDET_LANE void divide(const P* x, Number pivot, R modulus, P* l) const {
    if constexpr (!kIsComplex<P>) {
      const I sign = bits_of(broadcast<P>(pivot)) & I(std::numeric_limits<Integer>::min());
      for (int v = 0; v < packs(); ++v) {
        l[v] = from_bits(bits_of(x[v] / modulus) ^ sign);
      }
    } else {
      constexpr T kSafe = T(1) / T(int64_t(1) << 40);  // its square is well within the range
      if (modulus[0] >= kSafe) [[likely]] {
        const P inverse = broadcast<P>(reciprocal(pivot)), d = broadcast<P>(pivot);
        for (int v = 0; v < packs(); ++v) {
          l[v] = corrected_quotient(x[v], d, inverse);
        }
      } else {
        divide_by_tiny(x, pivot, l);
      }
    }
  }
  [[gnu::noinline]] void divide_by_tiny(const P* x, Number pivot, P* l) const {
    const PivotQuotient<P> quotient(broadcast<P>(pivot));
    for (int v = 0; v < packs(); ++v) {
      l[v] = quotient(x[v]);
    }
  }

  // Row k, which is zero in the unused columns, changes places with one that is not; false if there
  // is none.
  [[gnu::noinline]] bool step_back(int k, int m, P* l) {
    Facts& f = facts[m];
    for (int i = k + 1; i < n; ++i) {
      give_back_pivot(k, m);
      matrix(m).swap_rows(k, i);
      std::swap(f.row[k], f.row[i]);
      std::swap(f.frame.rows()[k], f.frame.rows()[i]);
      f.odd = !f.odd;
      if (take_pivot(k, m, l)) {
        return true;
      }
    }
    return false;
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
