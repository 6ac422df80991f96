// A panel of the blocked LU (blocked/lu.h, whose formulas (1) and (2) are meant here): a run of
// columns, transposed, so that they lie in packs along the rows. A slot is the place of one column;
// kPart slots are eliminated one by one before the later ones are updated. It is stored by blocks
// of rows, in each the columns one after the other: so all factors of a row lie together, where
// whole columns of a large matrix would each be on a page of its own.
#pragma once

#include "../matrix/product.h"
#include "../matrix/work_space.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename P>
class Panel {
 public:
  using T = ScalarOf<P>;
  using I = IntegerOf<P>;
  using Integer = typename Format<T>::Integer;
  using Number = NumberOf<P>;
  using M = RowMatrix<P>;
  static constexpr int W = M::W, kParts = M::kParts;

  const int64_t width;  // slots, for one column each
  int32_t* const
      pivot_position;  // by slot: where its pivot row lies, as a position among the rows loaded
  P* const pivots;     // by slot

  Panel(int64_t n, Arena& arena)
      : width(columns_for(n)),
        pivot_position(arena.take<int32_t>(width)),
        pivots(arena.take<P>(width / W)),
        columns_(arena.take<P>(width * kBlock * blocks_for(n))),
        upper_(arena.take<P>(width * width / W)),
        upper_in_part_(arena.take<Number>(width * kPart)),
        unused_(arena.take<I>(kBlock * blocks_for(n))) {}

  // Takes the slots [begin, end) from the rows of A that a list names, slot 0 being the first
  // column of pack `first`.
  void load(const M& A, const int32_t* rows, int64_t count, int64_t first, int64_t begin,
            int64_t end) {
    blocks_ = blocks_for(count);
    for (int64_t p = 0; p < blocks_ * kBlock; ++p) {
      const int64_t filled = std::clamp<int64_t>(count - p * W, 0, W);
      for (int64_t v = begin / W; v * W < end; ++v) {
        P x[W];
        for (int r = 0; r < W; ++r) {
          x[r] = r < filled ? A.row(rows[p * W + r])[first + v] : zero<P>();
        }
        transpose(x);
        for (int t = 0; t < W; ++t) {
          at(v * W + t, p / kBlock)[p % kBlock] = x[t];
        }
      }
      for (int r = 0; r < W; ++r) {
        unused()[p * W + r] = r < filled ? -1 : 0;
      }
    }
  }

  // Puts the slots [begin, end) back, eliminated: the multipliers l, and in pivot rows d and the
  // entries u to its right.
  void store(const M& A, const int32_t* rows, int64_t count, int64_t first, int64_t begin,
             int64_t end) const {
    const auto number = [](int64_t slot, int64_t v) { return I(Integer(slot - v * W)); };
    for (int64_t p = 0; p * W < count; ++p) {
      for (int64_t v = begin / W; v * W < end; ++v) {
        P x[W];
        for (int t = 0; t < W; ++t) {
          x[t] = at(v * W + t, p / kBlock)[p % kBlock];
        }
        transpose(x);
        const auto done = greater(number(end, v), lane_numbers<P>());
        for (int r = 0; r < W && p * W + r < count; ++r) {
          P& to = A.row(rows[p * W + r])[first + v];
          to = select(done, x[r], to);
        }
      }
    }
    for (int64_t a = begin; a < end; ++a) {
      P* const to = A.row(rows[pivot_position[a]]) + first;
      const int64_t later = std::min(end_of_part(a), end);
      for (int64_t t = a; t < later; ++t) {
        set_number(to, t, upper_in_part(a, t));
      }
      for (int64_t v = later / W; v * W < end; ++v) {
        const P u = select(greater(number(end, v), lane_numbers<P>()), upper(a)[v], to[v]);
        to[v] = select(greater(lane_numbers<P>(), number(later - 1, v)), u, to[v]);
      }
    }
  }

  // Eliminates the slots [begin, end), part by part. Returns how many it has eliminated: it stops
  // at a slot that is zero in all unused rows.
  int64_t eliminate(int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end;) {
      const int64_t next = std::min(end_of_part(part), end);
      const int64_t found = eliminate_part(part, next);
      solve_pivot_rows(part, found, next, end);
      if (found < next - part) {
        return part + found - begin;
      }
      update_later_slots(part, found, next, end);
      part = next;
    }
    return end - begin;
  }

  bool is_unused(int64_t position) const { return unused()[position] != 0; }

  // The factors of (2): that of the row at a position, for slot s, lies s * kFactorStride further.
  static constexpr int64_t kFactorStride = kTilePacks<P> * W * kParts;
  TORCHDET_LANE const T* factors(int64_t position) const {
    constexpr int64_t kRows = kBlock * W;
    return scalars(at(0, position / kRows)) + offset_of<P>(position % kRows);
  }

  // (1) for the packs [0, packs), packs <= kTilePacks, of the pivot rows of the slots [begin, end),
  // which lie one after the other in x.
  void solve(P* x, int64_t packs, int64_t begin, int64_t end) const {
    for (int64_t a = begin; a < end; a += kTileRows) {
      const int64_t rows = std::min<int64_t>(kTileRows, end - a);
      P* const block = x + (a - begin) * packs;
      solve_rows<P>(
          rows, packs, [&](int64_t m) { return block + m * packs; },
          [&](int64_t m) { return lower(a + m, begin); }, kFactorStride, 0, x, packs, a - begin,
          [&](int64_t m, int64_t k) { return lower(a + m, a + k); });
    }
  }

 private:
  // Columns that are eliminated one by one before the later ones are updated.
  static constexpr int kPart = kTileRows;
  static constexpr int kBlock = kTilePacks<P>;  // packs of rows

  P* const columns_;
  P* const upper_;               // u_a of the slots after the part of a, in row a
  Number* const upper_in_part_;  // d_a and u_a of the slots of its part
  I* const unused_;              // -1 for rows that can be chosen, else 0
  int64_t blocks_ = 0;

  static int64_t columns_for(int64_t n) {
    const PanelWidth* w = kPanelWidths;
    for (; n > w->largest_n; ++w) {
    }
    return kIsComplex<P> ? w->complex_columns : w->columns;
  }
  static int64_t blocks_for(int64_t rows) { return (M::packs_for(rows) + kBlock - 1) / kBlock; }
  TORCHDET_LANE P* at(int64_t slot, int64_t block) const {
    return columns_ + (block * width + slot) * kBlock;
  }
  TORCHDET_LANE Number get(int64_t slot, int64_t position) const {
    return number_at<P>(factors(position) + slot * kFactorStride);
  }
  Integer* unused() const { return reinterpret_cast<Integer*>(unused_); }
  int64_t packs_of_slots() const { return width / W; }
  TORCHDET_LANE P* upper(int64_t a) const { return upper_ + a * packs_of_slots(); }
  TORCHDET_LANE Number& upper_in_part(int64_t a, int64_t slot) const {
    return upper_in_part_[a * kPart + slot % kPart];
  }
  static int64_t end_of_part(int64_t slot) { return slot / kPart * kPart + kPart; }
  TORCHDET_LANE const T* lower(int64_t a, int64_t c) const {  // l_{r_a, c}
    return factors(pivot_position[a]) + c * kFactorStride;
  }
  static const T* scalars(const P* packs) { return reinterpret_cast<const T*>(packs); }

  // The slots [begin, end) by themselves, one after the other.
  int64_t eliminate_part(int64_t begin, int64_t end) {
    LargestEntry<P> search = {I(0), I(0)};
    for (int64_t b = 0; b < blocks_; ++b) {
      for (int q = 0; q < kBlock; ++q) {
        search.look(at(begin, b)[q], unused_[b * kBlock + q], b * kBlock + q);
      }
    }
    for (int64_t c = begin; c < end; ++c) {
      const int lane = search.lane();
      if (lane < 0) {
        return c - begin;
      }
      const int64_t r = search.place[lane] * W + lane;
      const Number d = get(c, r);
      pivot_position[c] = static_cast<int32_t>(r);
      set_number(pivots, c, d);
      upper_in_part(c, c) = d;
      unused()[r] = 0;
      divide(c, d);
      search = {I(0), I(0)};
      for (int64_t t = c + 1; t < end; ++t) {
        const Number u = get(t, r);
        upper_in_part(c, t) = u;
        if (t == c + 1) {
          subtract_multiple<true>(t, broadcast<P>(u), c, search);
        } else {
          subtract_multiple<false>(t, broadcast<P>(u), c, search);
        }
      }
    }
    return end - begin;
  }
  // Divides slot c by d. Pivots whose reciprocal, and its square, are well within the range need no
  // scaling first.
  TORCHDET_LANE void divide(int64_t c, Number d) const {
    constexpr T kLarge = T(int64_t(1) << 40);
    const T size = pivot_size(d);
    if (size > 1 / kLarge && size < kLarge) [[likely]] {
      const P pivot = broadcast<P>(d), inverse = broadcast<P>(reciprocal(d));
      for (int64_t b = 0; b < blocks_; ++b) {
        P* const x = at(c, b);
        for (int q = 0; q < kBlock; ++q) {
          x[q] = corrected_quotient(x[q], pivot, inverse);
        }
      }
    } else {
      const PivotQuotient<P> quotient(broadcast<P>(d));
      for (int64_t b = 0; b < blocks_; ++b) {
        P* const x = at(c, b);
        for (int q = 0; q < kBlock; ++q) {
          x[q] = quotient(x[q]);
        }
      }
    }
  }
  // Slot t less u times slot c; kSearch: looks for a pivot in the result.
  template <bool kSearch>
  TORCHDET_LANE void subtract_multiple(int64_t t, P u, int64_t c, LargestEntry<P>& search) const {
    for (int64_t b = 0; b < blocks_; ++b) {
      P* const x = at(t, b);
      const P* const l = at(c, b);
      for (int q = 0; q < kBlock; ++q) {
        x[q] = fnma(u, l[q], x[q]);
        if (kSearch) {
          search.look(x[q], unused_[b * kBlock + q], b * kBlock + q);
        }
      }
    }
  }

  // For the pivots of the slots [part, part + count): takes the entries of the slots [next, end)
  // from their rows, and (1) makes them u.
  void solve_pivot_rows(int64_t part, int64_t count, int64_t next, int64_t end) const {
    if (count == 0) {
      return;
    }
    for (int64_t s = part; s < part + count; ++s) {
      for (int64_t t = next; t < end; ++t) {
        set_number(upper(s), t, get(t, pivot_position[s]));
      }
    }
    for (int64_t v = next / W; v * W < end; ++v) {
      const P* const none = nullptr;
      solve_rows<P>(
          count, 1, [&](int64_t m) { return upper(part + m) + v; },
          [&](int64_t m) { return lower(part + m, part); }, kFactorStride, 0, none, 0, 0,
          [&](int64_t m, int64_t k) { return lower(part + m, part + k); });
    }
  }

  // (2) for the slots [next, end) by the pivots of [part, part + count).
  void update_later_slots(int64_t part, int64_t count, int64_t next, int64_t end) const {
    for (int64_t b = 0; b < blocks_ && next < end; ++b) {
      subtract_rows<P>(
          end - next, kBlock, [&](int64_t m) { return at(next + m, b); },
          [&](int64_t m) { return scalars(upper(part)) + offset_of<P>(next + m); },
          packs_of_slots() * W * kParts, 0, at(part, b), kBlock, count);
    }
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
