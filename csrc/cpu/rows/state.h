// A matrix of the class "rows" between the steps of an elimination (rows/gauss_jordan.h,
// rows/second_half.h).
//
// After step k, column p_k holds the entries b_(i p_k) without the factor -1 / d_k, which the
// kernel applies when it writes the result.
#pragma once

#include "../matrix/io.h"
#include "../matrix/strip_update.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// --- Sets of columns ---

// One bit per column, in one word to order 64.
constexpr int kOrderOfWord = 64;
template <int kOrder>
using ColumnSet = std::conditional_t<(kOrder > kOrderOfWord), unsigned __int128, uint64_t>;
TORCHDET_LANE int lowest_bit(uint64_t bits) {
  return __builtin_ctzll(bits);
}
TORCHDET_LANE int lowest_bit(unsigned __int128 bits) {
  const auto low = static_cast<uint64_t>(bits);
  return low != 0 ? __builtin_ctzll(low) : 64 + __builtin_ctzll(static_cast<uint64_t>(bits >> 64));
}
TORCHDET_LANE bool is_odd(uint64_t bits) {
  return __builtin_parityll(bits);
}
TORCHDET_LANE bool is_odd(unsigned __int128 bits) {
  return __builtin_parityll(static_cast<uint64_t>(bits) ^ static_cast<uint64_t>(bits >> 64));
}
TORCHDET_LANE int count_bits(uint64_t bits) {
  return __builtin_popcountll(bits);
}
TORCHDET_LANE int count_bits(unsigned __int128 bits) {
  return count_bits(static_cast<uint64_t>(bits)) + count_bits(static_cast<uint64_t>(bits >> 64));
}

// Stores the lanes of x that bits name side by side, and zeros in the rest of a pack.
#if TORCHDET_VECTOR_BYTES == 64
TORCHDET_LANE void store_chosen(float* to, Vec<float, 16> x, uint64_t bits) {
  const auto mask = static_cast<__mmask16>(bits);
  _mm512_storeu_ps(to, _mm512_maskz_compress_ps(mask, (__m512)x.raw));
}
TORCHDET_LANE void store_chosen(double* to, Vec<double, 8> x, uint64_t bits) {
  const auto mask = static_cast<__mmask8>(bits);
  _mm512_storeu_pd(to, _mm512_maskz_compress_pd(mask, (__m512d)x.raw));
}
#endif

// --- The state ---

// kGroup matrices whose rows alternate. kPacks: packs per row where known at compile time, else 0,
// and at most kMaxPacks.
template <typename P, int kPacks, int kMaxPacks, int kGroup>
class EliminationState {
 public:
  using T = ScalarOf<P>;
  using R = RealOf<P>;
  using I = IntegerOf<P>;
  using Number = NumberOf<P>;
  using Integer = typename Format<T>::Integer;
  static constexpr int W = LaneTraits<P>::kWidth, kParts = kIsComplex<P> ? 2 : 1;
  static constexpr int kMaxOrder = kMaxPacks * W;
  using Bits = ColumnSet<kMaxOrder>;
  static constexpr LongRows kLongRows = kGroup == 1 && !kIsComplex<P>
                                            ? long_rows(kVectorBytes, kPacks, kMaxPacks)
                                            : LongRows{false, 1};

  // What is known of one matrix beside its entries.
  struct Facts {
    P pivot[kMaxPacks];         // d_k in lane k, and ones after d_n
    I row_exponent[kMaxPacks];  // of row[k] in lane k
    I column_exponent[kMaxPacks];
    Frame<P> frame;
    int32_t row[kMaxOrder];     // index of the row now at position k
    int32_t column[kMaxOrder];  // p_k
    Bits unused;                // columns that have been no pivot's yet
    bool odd;                   // sign of the permutation
    bool no_cofactors;          // rank <= n - 2
    bool zero_pivot;            // one before the last is zero
  };
  const int n;
  Facts facts[kGroup];

  // storage: kGroup * n * packs_for(n) packs.
  EliminationState(int order, P* storage)
      : n(order), runtime_packs_(static_cast<int>(RowMatrix<P>::packs_for(order))), z_(storage) {
    for (Facts& f : facts) {
      f.frame.row_exponent = f.row_exponent;
      f.frame.column_exponent = f.column_exponent;
    }
  }

  TORCHDET_LANE int packs() const { return kPacks > 0 ? kPacks : runtime_packs_; }
  TORCHDET_LANE P* row(int i, int m) const { return z_ + (i * kGroup + m) * packs(); }
  TORCHDET_LANE RowMatrix<P> matrix(int m) const { return {row(0, m), n, kGroup * packs()}; }

  // The last step: afterwards the matrix holds S B^-1, permuted as in (1) of rows/gauss_jordan.h.
  TORCHDET_LANE void last_step(int m) const {
    const int k = n - 1;
    const P S = broadcast<P>(last_pivot(m));
    const int p = facts[m].column[k];
    P l[kMaxPacks], scale[kMaxPacks];
    for (int v = 0; v < packs(); ++v) {
      l[v] = select(is_column(p, v), zero<P>(), row(k, m)[v]);
      scale[v] = select(is_column(p, v), one<P>(), S);
    }
    for (int i = 0; i < k; ++i) {
      const P f = broadcast<P>(get_number(row(i, m), p));
      for (int v = 0; v < packs(); ++v) {
        row(i, m)[v] = fnma(f, l[v], row(i, m)[v] * scale[v]);
      }
    }
    store_pivot_row(k, m, l);
  }

  // sgn d_1 .. d_n of matrix m, or without d_n.
  TORCHDET_LANE Scaled<Number> product(int m, bool with_last) const {
    const Facts& f = facts[m];
    const auto is_last = mask_of_bits(with_last ? 0 : uint64_t(1) << (n - 1) % W, I());
    Scaled<P> d = scaled_one<P>();
    for (int v = 0; v < packs(); ++v) {
      d = d * (v + 1 == packs() ? select(is_last, one<P>(), f.pivot[v]) : f.pivot[v]);
    }
    const P mantissa = fold_lanes(d.mantissa, [](P a, P b) { return a * b; });
    const I exponent = fold_lanes(d.exponent, [](I a, I b) { return a + b; });
    const Number x = first_lane(mantissa);
    return normalise(f.odd ? -x : x, Integer(exponent[0]));
  }
  TORCHDET_LANE Number last_pivot(int m) const { return get_number(facts[m].pivot, n - 1); }

  // The mask of column p in pack v of a row.
  TORCHDET_LANE static auto is_column(int p, int v) {
    return mask_of_bits(static_cast<uint64_t>((Bits(1) << p) >> (v * W)), I());
  }

 protected:
  using Strips = StripUpdate<P, kMaxPacks>;
  template <int kValue>
  using Constant = std::integral_constant<int, kValue>;

  TORCHDET_LANE static P broadcast_at(const P* row, int64_t offset) {
    return broadcast<P>(number_at<P>(reinterpret_cast<const T*>(row) + offset));
  }
  TORCHDET_LANE void subtract(P* x, P factor, const P* l) const {
    for (int v = 0; v < packs(); ++v) {
      x[v] = fnma(factor, l[v], x[v]);
    }
  }

  // update(i, number) for `number` rows from i on, where all are begin .. end - 1.
  template <int kTogether, typename Update>
  TORCHDET_LANE void for_rows(int begin, int end, Update update) const {
    int i = begin;
    for (; i + kTogether <= end; i += kTogether) {
      update(i, Constant<kTogether>());
    }
    for (; i < end; ++i) {
      update(i, Constant<1>());
    }
  }

  TORCHDET_LANE void store_pivot_row(int k, int m, const P* l) const {
    for (int v = 0; v < packs(); ++v) {
      row(k, m)[v] = select(is_column(facts[m].column[k], v), -one<P>(), l[v]);
    }
  }

 private:
  const int runtime_packs_;
  P* const z_;
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
