// One matrix per thread, each row a sequence of SIMD packs: the classes "rows" and "blocked".
//
// A pack P holds W neighbouring columns of one row (Vec, or Complex<Vec> with separate real and
// imaginary parts). Rows are padded with zero columns to whole packs.
#pragma once

#include "../../math/scaled.h"
#include "../simd/across_lanes.h"
#include "../simd/tile.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename P>
using NumberOf = std::conditional_t<kIsComplex<P>, Complex<ScalarOf<P>>, ScalarOf<P>>;

template <typename R>
TORCHDET_LANE R broadcast(ScalarOf<R> x, const R*) {
  return R(x);
}
template <typename R>
TORCHDET_LANE Complex<R> broadcast(Complex<ScalarOf<R>> x, const Complex<R>*) {
  return {R(x.re), R(x.im)};
}
template <typename P>
TORCHDET_LANE P broadcast(NumberOf<P> x) {
  return broadcast(x, static_cast<const P*>(nullptr));
}

// Where number j of a row of packs lies, in scalars; the imaginary part of a complex number lies W
// further.
template <typename P>
TORCHDET_LANE int64_t offset_of(int64_t j) {
  constexpr int W = LaneTraits<P>::kWidth;
  return j / W * W * (kIsComplex<P> ? 2 : 1) + j % W;
}
template <typename P>
TORCHDET_LANE NumberOf<P> number_at(const ScalarOf<P>* at) {
  if constexpr (kIsComplex<P>) {
    return {at[0], at[LaneTraits<P>::kWidth]};
  } else {
    return *at;
  }
}
template <typename P>
TORCHDET_LANE NumberOf<P> get_number(const P* row, int64_t j) {
  return number_at<P>(reinterpret_cast<const ScalarOf<P>*>(row) + offset_of<P>(j));
}
template <typename P>
TORCHDET_LANE void set_number(P* row, int64_t j, NumberOf<P> x) {
  ScalarOf<P>* at = reinterpret_cast<ScalarOf<P>*>(row) + offset_of<P>(j);
  if constexpr (kIsComplex<P>) {
    at[0] = x.re;
    at[LaneTraits<P>::kWidth] = x.im;
  } else {
    *at = x;
  }
}

template <typename P>
TORCHDET_LANE NumberOf<P> first_lane(P x) {
  return get_number(&x, 0);
}

template <typename P>
struct RowMatrix {
  using T = ScalarOf<P>;
  using Number = NumberOf<P>;
  static constexpr int W = LaneTraits<P>::kWidth;
  static constexpr int kParts = kIsComplex<P> ? 2 : 1;

  P* data;
  int64_t n, packs, stride;  // in packs

  RowMatrix(P* storage, int64_t order) : RowMatrix(storage, order, packs_for(order)) {}
  RowMatrix(P* storage, int64_t order, int64_t row_stride)
      : data(storage), n(order), packs(packs_for(order)), stride(row_stride) {}
  static int64_t packs_for(int64_t n) { return (n + W - 1) / W; }

  TORCHDET_LANE P* row(int64_t i) const { return data + i * stride; }
  TORCHDET_LANE Number get(int64_t i, int64_t j) const { return get_number(row(i), j); }
  TORCHDET_LANE void set(int64_t i, int64_t j, Number x) const { set_number(row(i), j, x); }
  void clear() const {
    for (int64_t i = 0; i < n; ++i) {
      std::fill(row(i), row(i) + packs, zero<P>());
    }
  }
  void swap_rows(int64_t i, int64_t k) const {
    if (i != k) {
      std::swap_ranges(row(i), row(i) + packs, row(k));
    }
  }
};

// The numbers 0 .. W - 1, to compare a column index with.
template <typename P>
TORCHDET_LANE IntegerOf<P> lane_numbers() {
  using Raw = typename IntegerOf<P>::Raw;
  Raw r{};
  for (int i = 0; i < LaneTraits<P>::kWidth; ++i) {
    r[i] = i;
  }
  return IntegerOf<P>(r);
}

// Not finite where x is not.
template <typename R>
TORCHDET_LANE R component_sum(R x) {
  return x;
}
template <typename R>
TORCHDET_LANE R component_sum(Complex<R> x) {
  return x.re + x.im;
}

// Largest component over the lanes of a pack.
template <typename T, int W>
TORCHDET_LANE T largest_lane(Vec<T, W> x) {
  return fold_lanes(x, [](Vec<T, W> a, Vec<T, W> b) { return maximum(a, b); })[0];
}

// The largest of the entries that are open (-1; others 0), lane by lane, and the place it was seen.
template <typename P>
struct LargestEntry {
  using I = IntegerOf<P>;
  using Integer = typename Format<ScalarOf<P>>::Integer;
  I largest, place;

  TORCHDET_LANE void look(P x, I open, int64_t here) {
    const I size = bits_of(pivot_size(x)) & open;
    const auto larger = greater(size, largest);
    largest = select(larger, size, largest);
    place = select(larger, I(static_cast<Integer>(here)), place);
  }
  // The first lane with the largest of all, or -1 where all are zero.
  TORCHDET_LANE int lane() const {
    const I all = fold_lanes(largest, [](I a, I b) { return maximum(a, b); });
    return all[0] == 0 ? -1 : __builtin_ctzll(lane_bits(equal(largest, all)));
  }
};

// d_1 .. d_n for pivots in packs, filled up with ones.
template <typename P>
TORCHDET_LANE Scaled<NumberOf<P>> product_of(const P* pivots, int64_t packs) {
  using I = IntegerOf<P>;
  Scaled<P> d = scaled_one<P>();
  for (int64_t v = 0; v < packs; ++v) {
    d = d * pivots[v];
  }
  const P mantissa = fold_lanes(d.mantissa, [](P a, P b) { return a * b; });
  const I exponent = fold_lanes(d.exponent, [](I a, I b) { return a + b; });
  return normalise(first_lane(mantissa), IntegerOf<ScalarOf<P>>(exponent[0]));
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
