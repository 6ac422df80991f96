// A panel of the blocked elimination (elimination.h, whose formulas (1) to (3) are meant here): a
// run of columns, transposed, so that they lie in packs along the rows and the search for a pivot
// is a pass over contiguous numbers.
#pragma once

#include "arena.h"
#include "row_product.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// Columns of a panel: few enough to be a small part of the work, many enough that an update does
// more than move the matrix through the cache. A multiple of every pack's width.
inline int64_t panel_columns(int64_t n) {
  return n <= 160 ? 16 : n <= 384 ? 32 : 64;
}

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
      : width(panel_columns(n)),
        place(arena.take<int32_t>(width)),
        pivots(arena.take<P>(width / W)),
        length_(M::packs_for(n) | 1),
        columns_(arena.take<P>(width * length_)),
        lower_(arena.take<P>(width * width / W)),
        upper_(arena.take<P>(kPart * width / W)),
        open_(arena.take<I>(length_)) {}

  // Takes the slots [begin, end) from the rows of A that a list names, slot 0 being the first
  // column of pack `first`. Rows that are used cannot become pivot rows.
  void load(const M& A, const int32_t* rows, int64_t count, const bool* used, int64_t first,
            int64_t begin, int64_t end) {
    packs_ = M::packs_for(count);
    for (int64_t p = 0; p < packs_; ++p) {
      const int64_t filled = std::min<int64_t>(W, count - p * W);
      for (int64_t v = begin / W; v * W < end; ++v) {
        P x[W];
        for (int r = 0; r < W; ++r) {
          x[r] = r < filled ? A.row(rows[p * W + r])[first + v] : zero<P>();
        }
        transpose(x);
        for (int t = 0; t < W; ++t) {
          column(v * W + t)[p] = x[t];
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

  // The factors of (2) and (3): that of the row at a position, for slot s, lies s * factor_stride()
  // further.
  const T* factors(int64_t position) const { return scalars(columns_) + offset_of<P>(position); }
  int64_t factor_stride() const { return length_ * W * kParts; }

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
      solve_block<kInverse, kTilePacks<P>>(block, packs, a, rows);
    }
  }

 private:
  // Columns that are eliminated one by one before the later ones are updated.
  static constexpr int kPart = kTileRows;

  const int64_t length_;  // packs from one column to the next: odd, to spread over the cache's sets
  P* const columns_;
  P* const lower_;  // Gauss-Jordan: l_{r_a, c} in row c, lane a, as (3) takes their place
  P* const upper_;  // u_a of the later slots, in row a
  I* const open_;   // -1 for rows that can be chosen, else 0
  int64_t packs_ = 0;

  P* column(int64_t slot) const { return columns_ + slot * length_; }
  Integer* open() const { return reinterpret_cast<Integer*>(open_); }
  int64_t packs_of_slots() const { return width / W; }
  // l_{r_a, c}, and how far it is from there to that of slot c + 1.
  template <bool kInverse>
  TORCHDET_LANE const T* lower(int64_t a, int64_t c) const {
    return kInverse ? scalars(lower_ + c * packs_of_slots()) + offset_of<P>(a)
                    : factors(place[a]) + c * factor_stride();
  }
  template <bool kInverse>
  TORCHDET_LANE int64_t lower_stride() const {
    return kInverse ? packs_of_slots() * W * kParts : factor_stride();
  }
  static const T* scalars(const P* packs) { return reinterpret_cast<const T*>(packs); }

  // The largest entry of a column among the open rows, lane by lane.
  struct Search {
    I largest, pack;
    TORCHDET_LANE void look(P x, I open, int64_t p) {
      const I size = bits_of(pivot_size(x)) & open;
      const auto larger = greater(size, largest);
      largest = select(larger, size, largest);
      pack = select(larger, I(static_cast<Integer>(p)), pack);
    }
    // Its position, or -1 where all are zero.
    TORCHDET_LANE int64_t position() const {
      const I all = fold_lanes(largest, [](I a, I b) { return maximum(a, b); });
      const int lane = __builtin_ctzll(lane_bits(equal(largest, all)));
      return all[0] == 0 ? -1 : pack[lane] * W + lane;
    }
  };

  // The slots [begin, end) by themselves, one after the other.
  template <bool kInverse>
  int64_t eliminate_part(int64_t begin, int64_t end) {
    Search search = {I(0), I(0)};
    for (int64_t p = 0; p < packs_; ++p) {
      search.look(column(begin)[p], open_[p], p);
    }
    for (int64_t c = begin; c < end; ++c) {
      const int64_t r = search.position();
      if (r < 0) {
        return c - begin;
      }
      P* const l = column(c);
      const Number d = get_number(l, r);
      place[c] = static_cast<int32_t>(r);
      set_number(pivots, c, d);
      open()[r] = 0;
      divide(l, d);
      search = {I(0), I(0)};
      const Number inverse = kInverse ? inverse_of(d) : d;
      for (int64_t t = c + 1; t < end; ++t) {
        P* const x = column(t);
        const Number u = get_number(x, r);
        if (t == c + 1) {
          subtract_multiple<true>(x, broadcast<P>(u), l, search);
        } else {
          subtract_multiple<false>(x, broadcast<P>(u), l, search);
        }
        if (kInverse) {
          set_number(x, r, u * inverse);  // (3)
        }
      }
    }
    return end - begin;
  }
  // l / d. Pivots whose reciprocal, and its square, are well within the range need no lifting.
  TORCHDET_LANE void divide(P* l, Number d) const {
    constexpr T kLarge = T(int64_t(1) << 40);
    const T size = pivot_size(d);
    if (size > 1 / kLarge && size < kLarge) [[likely]] {
      const P pivot = broadcast<P>(d), inverse = broadcast<P>(reciprocal(d));
      for (int64_t p = 0; p < packs_; ++p) {  // with one Newton correction, as in PivotQuotient
        const P quotient = l[p] * inverse;
        l[p] = fma(fnma(quotient, pivot, l[p]), inverse, quotient);
      }
    } else {
      const PivotQuotient<P> quotient(broadcast<P>(d));
      for (int64_t p = 0; p < packs_; ++p) {
        l[p] = quotient(l[p]);
      }
    }
  }
  // x - u l; kSearch: looks for a pivot in the result.
  template <bool kSearch>
  TORCHDET_LANE void subtract_multiple(P* x, P u, const P* l, Search& search) const {
    for (int64_t p = 0; p < packs_; ++p) {
      x[p] = fnma(u, l[p], x[p]);
      if (kSearch) {
        search.look(x[p], open_[p], p);
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
        set_number(lower_ + c * packs_of_slots(), s, get_number(column(c), r));
        set_number(column(c), r, zero<Number>());
      }
      if (kInverse) {
        set_number(column(s), r, -inverse_of(get_number(pivots, s)));
      }
      for (int64_t t = next; t < end; ++t) {
        set_number(u, t, get_number(column(t), r));
        if (kInverse) {
          set_number(column(t), r, zero<Number>());
        }
      }
    }
    for (int64_t v = next / W; v * W < end; ++v) {
      solve_tile<kInverse, 1>(upper_ + v, packs_of_slots(), part, count);
    }
  }

  // x_a -= sum_c l_{r_a, c} x_c over the slots a, c < a of [begin, begin + count), count <=
  // kTileRows, in registers; row a of x, of NP packs, is that of slot begin + a.
  template <bool kInverse, int NP>
  TORCHDET_LANE void solve_tile(P* x, int64_t stride, int64_t begin, int64_t count) const {
    P u[kTileRows][NP];
    for (int a = 0; a < kTileRows; ++a) {
      if (a < count) {
        const T* const l = lower<kInverse>(begin + a, begin);
        for (int q = 0; q < NP; ++q) {
          u[a][q] = x[a * stride + q];
        }
        for (int c = 0; c < a; ++c) {
          const P factor = broadcast<P>(number_at<P>(l + c * lower_stride<kInverse>()));
          for (int q = 0; q < NP; ++q) {
            u[a][q] = fnma(factor, u[c][q], u[a][q]);
          }
        }
        for (int q = 0; q < NP; ++q) {
          x[a * stride + q] = u[a][q];
        }
      }
    }
  }
  template <bool kInverse, int NP>
  void solve_block(P* x, int64_t packs, int64_t begin, int64_t count) const {
    if (packs == NP) {
      solve_tile<kInverse, NP>(x, NP, begin, count);
    } else if constexpr (NP > 1) {
      solve_block<kInverse, NP - 1>(x, packs, begin, count);
    }
  }

  // (2) and (3) for the slots [next, end) by the pivots of [part, part + count).
  void update_later_slots(int64_t part, int64_t count, int64_t next, int64_t end) const {
    for (int64_t p = 0; p < packs_ && next < end; p += kTilePacks<P>) {
      subtract_rows<P>(
          end - next, std::min<int64_t>(kTilePacks<P>, packs_ - p),
          [&](int64_t m) { return column(next + m) + p; },
          [&](int64_t m) { return scalars(upper_) + offset_of<P>(next + m); },
          packs_of_slots() * W * kParts, column(part) + p, length_, count);
    }
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
