// Hessian-vector products of the class "large", by (3) in inverse_hvp.h: two products by torch.
#pragma once

#include "kernels.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// From Z to conj(Z') = 2^-z conj(2^-r Z 2^-c), with entries of at most 2, where the factors of B'
// were; and the terms of the strips.
template <typename V>
struct LargeDirection : StripKernel<V> {
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  static constexpr int kCount = Chunk<V>::kCount;

  // z, in all threads.
  TORCHDET_DEVICE static I exponent(const LargeMatrix<V>& m) {
    const int lane = thread_index() % kWarpSize;
    if (!m.facts->equilibration.is_identity) {
      I z = I(kZeroExponent);
      for (int s = lane; s < LargeMatrix<V>::count_column_strips(m.n); s += kWarpSize) {
        z = maximum(z, m.direction[s]);
      }
      TORCHDET_UNROLL
      for (int mask = 1; mask < kWarpSize; mask *= 2) {
        z = maximum(z, shuffle_xor(z, mask));
      }
      return z < kZeroExponentBound ? I(0) : z;
    }
    int32_t bits = 0;
    for (int s = lane; s < LargeMatrix<V>::count_strips(m.n); s += kWarpSize) {
      bits = maximum(bits, m.sizes[s].direction);
    }
    bits = reduce_maximum_in_warp(bits);
    // Of subnormal numbers 2^kMinExponent is near enough.
    return maximum(exponent_of_leading_bits<R>(bits), I(Format<ScalarOf<V>>::kMinExponent));
  }

  TORCHDET_DEVICE static void run(const Problem& p) {
    const LargeMatrix<V> m(p, LargeDirection::matrix_index(p));
    const int strip = LargeDirection::strip_index(p), begin = strip * kStripRows, n = m.n;
    const bool is_whole = m.has_whole_words();
    const I z = exponent(m);
    const int column_of_entry = m.facts->column;
    const R s = exact_pow2<R>(m.facts->exponent);
    const LargeReader<V> reader(p.other, m.b, n);
    V trace = zero<V>();
    int32_t inverse = 0, column = 0, row = 0;
    for (int w = thread_index(); w < words_of<V>(n); w += kStripThreads) {
      const Chunk<V> r_word = load_word(m.inverse + int64_t(n - 1) * n, w, n, is_whole);
      TORCHDET_UNROLL
      for (int e = 0; e < kCount; ++e) {
        row = maximum(row, leading_bits(r_word.x[e]));
      }
      TORCHDET_ROLL
      for (int r0 = 0; r0 < kStripRows && begin + r0 < n; r0 += kRowsAhead) {
        Chunk<V> x[kRowsAhead];
        reader.load(begin + r0, w, x);
        TORCHDET_UNROLL
        for (int t = 0; t < kRowsAhead; ++t) {
          const int i = begin + r0 + t;
          if (i < n) {
            const Chunk<V> y = load_word(m.inverse + int64_t(i) * n, w, n, is_whole);
            const V c = m.inverse[int64_t(i) * n + column_of_entry];
            column = maximum(column, leading_bits(c));
            TORCHDET_UNROLL
            for (int e = 0; e < kCount; ++e) {
              const int j = w * kCount + e;
              const V entry = scale_pow2(x[t].x[e], (j < n ? m.shift(i, j) : I(0)) - z);
              x[t].x[e] = conj(entry);
              trace = fma(y.x[e], x[t].x[e], trace);
              inverse = maximum(inverse, leading_bits(fnma(c * s, r_word.x[e], y.x[e])));
            }
            store_word(m.factors + int64_t(i) * n, w, x[t], n, is_whole);
          }
        }
      }
    }
    TORCHDET_UNROLL
    for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
      trace = trace + shuffle_xor(trace, mask);
    }
    const StripTerms<V> terms = {conj(trace), 0, reduce_maximum_in_warp(inverse),
                                 reduce_maximum_in_warp(column), reduce_maximum_in_warp(row)};
    if (thread_index() % kWarpSize == 0) {
      m.terms[strip * kStripWarps + thread_index() / kWarpSize] = terms;
    }
  }
};

// (3): conj(W) is where the factors were.
template <typename V>
struct LargeHvp : StripKernel<V> {
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  static constexpr int kCount = Chunk<V>::kCount;

  TORCHDET_DEVICE static void run(const Problem& p) {
    const LargeMatrix<V> m(p, LargeHvp::matrix_index(p));
    const int strip = LargeHvp::strip_index(p), begin = strip * kStripRows, n = m.n;
    const InverseFacts<V> facts = *m.facts;
    const R poison = facts.equilibration.poison;
    const bool is_whole = m.has_whole_words();
    const I exponent =
        facts.determinant.exponent + facts.equilibration.total + LargeDirection<V>::exponent(m);
    V trace = zero<V>();
    for (int s = 0; s < LargeMatrix<V>::count_strips(n) * kStripWarps; ++s) {
      trace = trace + m.terms[s].trace;
    }
    const auto x_at = [&](int i, int j) { return conj(m.inverse[int64_t(i) * n + j]); };
    const auto w_at = [&](int i, int j) { return conj(m.factors[int64_t(i) * n + j]); };
    const int l = facts.row, k = facts.column;
    const HvpTerms<V> terms(facts, trace, w_at(l, k));
    R check = 0;
    for (int w = thread_index(); w < words_of<V>(n); w += kStripThreads) {
      const Chunk<V> x_row = load_word(m.inverse + int64_t(l) * n, w, n, is_whole);
      const Chunk<V> w_row = load_word(m.factors + int64_t(l) * n, w, n, is_whole);
      TORCHDET_ROLL
      for (int r0 = 0; r0 < kStripRows && begin + r0 < n; r0 += kRowsAhead / 2) {
        Chunk<V> x[kRowsAhead / 2], y[kRowsAhead / 2];
        TORCHDET_UNROLL
        for (int r = 0; r < kRowsAhead / 2; ++r) {
          const int i = minimum(begin + r0 + r, n - 1);
          x[r] = load_word(m.inverse + int64_t(i) * n, w, n, is_whole);
          y[r] = load_word(m.factors + int64_t(i) * n, w, n, is_whole);
        }
        TORCHDET_UNROLL
        for (int r = 0; r < kRowsAhead / 2; ++r) {
          const int i = begin + r0 + r;
          if (i < n) {
            const auto row = terms.row(x_at(i, k), w_at(i, k));
            TORCHDET_UNROLL
            for (int e = 0; e < kCount; ++e) {
              const int j = w * kCount + e;
              V h = terms.entry(conj(x[r].x[e]), conj(y[r].x[e]), conj(x_row.x[e]),
                                conj(w_row.x[e]), row);
              check = add_nothing(h, check);
              h = scale_pow2(h * facts.determinant.mantissa,
                             exponent + (j < n ? m.shift(i, j) : I(0)));
              x[r].x[e] = add_poison(h, poison);
            }
            store_word(m.out + int64_t(i) * n, w, x[r], n, is_whole);
          }
        }
      }
    }
    const bool is_finite = !any_in_warp(!(check == R(0)));
    if (thread_index() % kWarpSize == 0) {
      m.terms[strip * kStripWarps + thread_index() / kWarpSize].is_finite = is_finite;
    }
  }
};

// Where (4) is too large, or the result not finite.
template <typename V>
struct LargeHvpByLdu : LargeLdu<V> {
  using R = RealOf<V>;

  TORCHDET_DEVICE static void run(const Problem& p) {
    LargeHvpByLdu::for_matrices(
        p,
        [](const auto& m, auto& team) {
          return is_insensitive(m, team) && LargeHvpByLdu::is_regular(m, team);
        },
        [&](auto& algorithms, int64_t b, const Equilibration<V>& eq) {
          write_hvp(algorithms, p, b, eq);
        });
  }

 private:
  TORCHDET_DEVICE static bool is_insensitive(const LargeMatrix<V>& m,
                                             typename LargeHvpByLdu::Own& team) {
    int32_t inverse = 0, column = 0, row = 0;
    team.for_each(0, LargeMatrix<V>::count_strips(m.n) * kStripWarps, [&](int t) {
      inverse = maximum(inverse, m.terms[t].inverse);
      column = maximum(column, m.terms[t].column);
      row = maximum(row, m.terms[t].row);
    });
    const auto largest = [](int32_t x, int32_t y) { return maximum(x, y); };
    const R x = from_leading_bits<R>(team.reduce(inverse, largest));
    const R c = from_leading_bits<R>(team.reduce(column, largest));
    const R r = from_leading_bits<R>(team.reduce(row, largest));
    const bool is_identity = m.facts->equilibration.is_identity;
    const R size = is_identity ? from_leading_bits<R>(m.largest()) : R(2);
    return inverse_serves_hvp(m.n, *m.facts, size, x, c, r);
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
