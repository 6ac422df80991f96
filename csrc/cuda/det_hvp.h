// Hessian-vector products of det in the classes "warp" and "block": (3) of inverse_hvp.h, from an
// inverse that the class's own sweep has left in shared memory.
#pragma once

#include "inverse_hvp.h"
#include "products.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// One matrix, by the lanes of a group. group.x has X. `size` is that of the largest number of B;
// row and column have -r and -c where B is scaled; w_column has room for n numbers; reduce(x,
// combine) is over the lanes, and need not order memory. Whether the result is right, in all lanes
// the same. Behind it nobody reads Z or the strip.
template <typename V, typename Group, typename Exponent, typename Reduce>
TORCHDET_DEVICE bool write_hvp_by_inverse(const Problem& p, int64_t b, bool writes,
                                          const Group& group, const InverseFacts<V>& facts,
                                          RealOf<V> size, const Exponent* row,
                                          const Exponent* column, V* w_column, Reduce reduce) {
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  using Words = Chunk<V>;
  constexpr int kCount = Words::kCount;
  const int n = group.n, words = words_of<V>(n), stride = group.stride;
  const int l = facts.row, k = facts.column;
  const V* const x = group.x;
  const V* const x_row = x + l * stride;
  const bool is_scaled = !facts.equilibration.is_identity;
  const auto shift = [&](int i, int j) { return is_scaled ? I(row[i]) + I(column[j]) : I(0); };
  const auto larger = [](auto a, auto b) { return maximum(a, b); };

  // Z as it is, which serves where nothing is scaled and no product leaves the range.
  constexpr int kSmall = 16;
  int32_t of_z = 0;
  group.read(p.other, b, [&](int i, int j, V number) {
    of_z = maximum(of_z, leading_bits(number));
    group.z[j * stride + i] = number;
  });
  Group::sync();
  I z = exponent_of(from_leading_bits<R>(reduce(of_z, larger)));
  const bool is_small = !is_scaled && z <= kSmall && z >= -kSmall;
  if (any_in_warp(!is_small)) {
    // Else Z' = 2^-z 2^-r Z 2^-c, whose largest number has the exponent 0.
    z = kZeroExponent;
    TORCHDET_ROLL
    for (int turn = 0; turn < 2; ++turn) {
      TORCHDET_ROLL
      for (int t = group.rank; t < n * n; t += Group::kLanes) {
        const int i = t / n, j = t % n;
        V& number = group.z[j * stride + i];
        const I s = shift(i, j);
        if (turn == 0) {
          z = maximum(z, entry_exponent(number) + s);
        } else {
          number = scale_pow2(number, s - z);
        }
      }
      if (turn == 0) {
        z = reduce(z, larger);
        z = is_small || z < kZeroExponentBound ? I(0) : z;
      }
    }
    Group::sync();
  } else {
    z = 0;
  }

  // t = tr(X^T Z'), and the sizes that tell whether the inverse serves.
  const R s = exact_pow2<R>(facts.exponent);
  V trace = zero<V>();
  int32_t of_inverse = 0, of_column = 0, of_row = 0;
  group.template for_places<2>(
      words, n, [&](int w, int i) { return Words::load(x + i * stride + w * kCount); },
      [&](int w, int i, const Words& word) {
        const Words r = Words::load(x_row + w * kCount);
        const V c = x[i * stride + k];
        of_column = maximum(of_column, leading_bits(c));
        TORCHDET_UNROLL
        for (int e = 0; e < kCount; ++e) {
          const int j = w * kCount + e;
          if (j < n) {
            trace = fma(word.x[e], group.z[j * stride + i], trace);
            of_row = maximum(of_row, leading_bits(r.x[e]));
            of_inverse = maximum(of_inverse, leading_bits(fnma(c * s, r.x[e], word.x[e])));
          }
        }
      });
  trace = reduce(trace, [](V a, V b) { return a + b; });
  of_inverse = reduce(of_inverse, larger);
  of_column = reduce(of_column, larger);
  of_row = reduce(of_row, larger);
  const bool serves =
      facts.is_regular != 0 &&
      inverse_serves_hvp(n, facts, size, from_leading_bits<R>(of_inverse),
                         from_leading_bits<R>(of_column), from_leading_bits<R>(of_row));
  if (!any_in_warp(serves)) {
    Group::sync();  // the group may be given another Z
    return false;
  }

  // Strips of W = X Z'^T X, that of its column p first, which all strips need.
  V* const out = static_cast<V*>(p.out) + b * n * n;
  const bool is_whole = n % kCount == 0 && reinterpret_cast<uintptr_t>(out) % sizeof(Wide) == 0;
  const V mantissa = facts.determinant.mantissa;
  const I exponent = facts.determinant.exponent + facts.equilibration.total + z;
  const V* const w_row = group.strip + l * group.strip_stride;
  const int strips = (words + Group::kStripWords - 1) / Group::kStripWords;
  const int first = k / kCount / Group::kStripWords;
  R check = 0;
  TORCHDET_ROLL
  for (int t = 0; t < strips; ++t) {
    const int begin = (first + t < strips ? first + t : first + t - strips) * Group::kStripWords;
    typename Group::Tile tile;
    group.template multiply<false>(group.z, x, stride, begin, begin, tile);
    Group::sync();
    group.store(tile, begin);
    Group::sync();
    group.template multiply<false>(x, group.strip, group.strip_stride, 0, begin, tile);
    Group::sync();
    group.store(tile, begin);
    Group::sync();
    if (t == 0) {
      TORCHDET_ROLL
      for (int i = group.rank; i < n; i += Group::kLanes) {
        w_column[i] = group.strip[i * group.strip_stride + k - begin * kCount];
      }
      Group::sync();
    }
    const HvpTerms<V> terms(facts, trace, w_column[l]);
    group.template for_places<2>(
        n, minimum(words - begin, Group::kStripWords),
        [&](int i, int w) {
          return Words::load(group.strip + i * group.strip_stride + w * kCount);
        },
        [&](int i, int w, Words word) {
          const int of_x = (begin + w) * kCount;
          const Words x_word = Words::load(x + i * stride + of_x);
          const Words r = Words::load(x_row + of_x), w_r = Words::load(w_row + w * kCount);
          const auto of_terms = terms.row(x[i * stride + k], w_column[i]);
          TORCHDET_UNROLL
          for (int e = 0; e < kCount; ++e) {
            const int j = of_x + e;
            if (j < n) {
              const V h = terms.entry(x_word.x[e], word.x[e], r.x[e], w_r.x[e], of_terms);
              check = add_nothing(h, check);
              word.x[e] = scale_pow2(h * mantissa, exponent + shift(i, j));
            }
          }
          if (writes) {
            store_word(out + int64_t(i) * n, begin + w, word, n, is_whole);
          }
        });
    Group::sync();
  }
  return reduce(check == R(0) ? 1 : 0, [](int a, int b) { return a & b; }) != 0 && serves;
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
