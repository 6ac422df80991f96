// A panel of the blocked elimination (elimination.h, whose formulas (1) to (3) are meant here): a
// run of columns, transposed, so that they lie in packs along the rows. It is stored by blocks of
// rows, in each the columns one after the other: so all factors of a row lie together, where
// whole columns of a large matrix would each be on a page of its own.
#pragma once

#include "arena.h"
#include "row_product.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// 1 / d, infinite only where it is.
template <typename Number>
Number inverse_of(Number d) {
  const Scaled<Number> m = normalise(d, IntegerOf<Number>(0));
  return scale_pow2(reciprocal(m.mantissa), -m.exponent);
}

template <typename P>
class Panel {
 public:
  using T = ScalarOf<P>;
  using I = IntegerOf<P>;
  using Integer = typename Format<T>::Integer;
  using Number = NumberOf<P>;
  using M = RowMatrix<P>;
  static constexpr int W = M::W, kParts = M::kParts;

  const int64_t width;   // slots, for one column each
  int32_t* const place;  // by slot: where its pivot row lies, as a position among the rows loaded
  P* const pivots;       // by slot

  Panel(int64_t n, Arena& arena)
      : width(columns_for(n)),
        place(arena.take<int32_t>(width)),
        pivots(arena.take<P>(width / W)),
        columns_(arena.take<P>(width * kBlock * blocks_for(n))),
        lower_(arena.take<P>(width * width / W)),
        upper_(arena.take<P>(kPart * width / W)),
        open_(arena.take<I>(kBlock * blocks_for(n))) {}

  // Takes the slots [begin, end) from the rows of A that a list names, slot 0 being the first
  // column of pack `first`. Rows that are used cannot become pivot rows.
  void load(const M& A, const int32_t* rows, int64_t count, const bool* used, int64_t first,
            int64_t begin, int64_t end) {
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
        open()[p * W + r] = r < filled && !used[rows[p * W + r]] ? -1 : 0;
      }
    }
  }

  // Eliminates the slots [begin, end), part by part; how many have a pivot, up to the first that is
  // zero in all open rows.
  template <bool kInverse>
  int64_t eliminate(int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end;) {
      const int64_t next = std::min(part / kPart * kPart + kPart, end);
      const int64_t found = eliminate_part<kInverse>(part, next);
      note_factors<kInverse>(begin, part, found, next, end);
      if (found < next - part) {
        return part + found - begin;
      }
      update_later_slots(part, found, next, end);
      part = next;
    }
    return end - begin;
  }

  // The factors of (2) and (3): that of the row at a position, for slot s, lies s * kFactorStride
  // further.
  static constexpr int64_t kFactorStride = kTilePacks<P> * W * kParts;
  TORCHDET_LANE const T* factors(int64_t position) const {
    constexpr int64_t kRows = kBlock * W;
    return scalars(at(0, position / kRows)) + offset_of<P>(position % kRows);
  }

  // (1) for the packs [0, packs), packs <= kTilePacks, of the pivot rows of the slots [begin, end),
  // which lie one after the other in x.
  template <bool kInverse>
  void solve(P* x, int64_t packs, int64_t begin, int64_t end) const {
    for (int64_t a = begin; a < end; a += kTileRows) {
      const int64_t rows = std::min<int64_t>(kTileRows, end - a);
      P* const block = x + (a - begin) * packs;
      subtract_rows<P>(
          rows, packs, [&](int64_t m) { return block + m * packs; },
          [&](int64_t m) { return lower<kInverse>(a + m, begin); }, lower_stride<kInverse>(), x,
          packs, a - begin);
      solve_unit_lower<P>(
          rows, packs, [&](int64_t m) { return block + m * packs; },
          [&](int64_t m, int64_t k) { return lower<kInverse>(a + m, a + k); });
    }
  }

 private:
  // Columns that are eliminated one by one before the later ones are updated.
  static constexpr int kPart = kTileRows;
  static constexpr int kBlock = kTilePacks<P>;  // packs of rows

  P* const columns_;
  P* const lower_;  // Gauss-Jordan: l_{r_a, c} in row c, lane a, as (3) takes their place
  P* const upper_;  // u_a of the later slots, in row a
  I* const open_;   // -1 for rows that can be chosen, else 0
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
  TORCHDET_LANE void set(int64_t slot, int64_t position, Number x) const {
    constexpr int64_t kRows = kBlock * W;
    set_number(at(slot, position / kRows), position % kRows, x);
  }
  Integer* open() const { return reinterpret_cast<Integer*>(open_); }
  int64_t packs_of_slots() const { return width / W; }
  // l_{r_a, c}, and how far it is from there to that of slot c + 1.
  template <bool kInverse>
  TORCHDET_LANE const T* lower(int64_t a, int64_t c) const {
    return kInverse ? scalars(lower_ + c * packs_of_slots()) + offset_of<P>(a)
                    : factors(place[a]) + c * kFactorStride;
  }
  template <bool kInverse>
  TORCHDET_LANE int64_t lower_stride() const {
    return kInverse ? packs_of_slots() * W * kParts : kFactorStride;
  }
  static const T* scalars(const P* packs) { return reinterpret_cast<const T*>(packs); }

  // The slots [begin, end) by themselves, one after the other.
  template <bool kInverse>
  int64_t eliminate_part(int64_t begin, int64_t end) {
    LargestEntry<P> search = {I(0), I(0)};
    for (int64_t b = 0; b < blocks_; ++b) {
      for (int q = 0; q < kBlock; ++q) {
        search.look(at(begin, b)[q], open_[b * kBlock + q], b * kBlock + q);
      }
    }
    for (int64_t c = begin; c < end; ++c) {
      const int lane = search.lane();
      if (lane < 0) {
        return c - begin;
      }
      const int64_t r = search.place[lane] * W + lane;
      const Number d = get(c, r);
      place[c] = static_cast<int32_t>(r);
      set_number(pivots, c, d);
      open()[r] = 0;
      divide(c, d);
      search = {I(0), I(0)};
      const Number inverse = kInverse ? inverse_of(d) : d;
      for (int64_t t = c + 1; t < end; ++t) {
        const Number u = get(t, r);
        if (t == c + 1) {
          subtract_multiple<true>(t, broadcast<P>(u), c, search);
        } else {
          subtract_multiple<false>(t, broadcast<P>(u), c, search);
        }
        if (kInverse) {
          set(t, r, u * inverse);  // (3)
        }
      }
    }
    return end - begin;
  }
  // Slot c by d. Pivots whose reciprocal, and its square, are well within the range need no
  // lifting.
  TORCHDET_LANE void divide(int64_t c, Number d) const {
    constexpr T kLarge = T(int64_t(1) << 40);
    const T size = pivot_size(d);
    if (size > 1 / kLarge && size < kLarge) [[likely]] {
      const P pivot = broadcast<P>(d), inverse = broadcast<P>(reciprocal(d));
      for (int64_t b = 0; b < blocks_; ++b) {
        P* const x = at(c, b);
        for (int q = 0; q < kBlock; ++q) {  // with one Newton correction, as in PivotQuotient
          const P quotient = x[q] * inverse;
          x[q] = fma(fnma(quotient, pivot, x[q]), inverse, quotient);
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
          search.look(x[q], open_[b * kBlock + q], b * kBlock + q);
        }
      }
    }
  }

  // For the pivots of the slots [part, part + count): sets the multipliers of (1) apart, puts those
  // of (3) in their place, and moves the entries of the slots [next, end) from the pivot rows to
  // upper_, where (1) makes them u.
  template <bool kInverse>
  void note_factors(int64_t begin, int64_t part, int64_t count, int64_t next, int64_t end) const {
    for (int64_t s = part; s < part + count; ++s) {
      const int64_t r = place[s];
      P* const u = upper_ + (s - part) * packs_of_slots();
      for (int64_t c = begin; kInverse && c < s; ++c) {
        set_number(lower_ + c * packs_of_slots(), s, get(c, r));
        set(c, r, zero<Number>());
      }
      if (kInverse) {
        set(s, r, -inverse_of(get_number(pivots, s)));
      }
      for (int64_t t = next; t < end; ++t) {
        set_number(u, t, get(t, r));
        if (kInverse) {
          set(t, r, zero<Number>());
        }
      }
    }
    for (int64_t v = next / W; v * W < end; ++v) {
      solve_unit_lower<P>(
          count, 1, [&](int64_t m) { return upper_ + m * packs_of_slots() + v; },
          [&](int64_t m, int64_t k) { return lower<kInverse>(part + m, part + k); });
    }
  }

  // (2) and (3) for the slots [next, end) by the pivots of [part, part + count).
  void update_later_slots(int64_t part, int64_t count, int64_t next, int64_t end) const {
    for (int64_t b = 0; b < blocks_ && next < end; ++b) {
      subtract_rows<P>(
          end - next, kBlock, [&](int64_t m) { return at(next + m, b); },
          [&](int64_t m) { return scalars(upper_) + offset_of<P>(next + m); },
          packs_of_slots() * W * kParts, at(part, b), kBlock, count);
    }
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
