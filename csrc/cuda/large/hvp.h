// Hessian-vector products of the class "large", from X of (1) in space.h and two products by torch.
//
// With W = X Z^T X and t = tr(X^T Z), H(B')[Z] = det B' (t X - W). B differs from B' by (q - 1) s
// in the entry (l, p) alone, of which det, and so each of its derivatives, is a linear function:
// H(B)[Z] = H(B')[Z] + (q - 1) s dH, where d is the derivative along that entry. With c = X[:, p],
// r^T = X[l, :], W_c = W[:, p], W_r = W[l, :] and X_lp = 1 / s
//     d det = det X_lp,   dX = -c r^T,   dt = -W_lp,   dW = -c W_r - W_c r^T,
// which makes
//     H(B)[Z] = det B' (q (t X - W) + (1 - q) s (W_lp X + (t c - W_c) r^T - c W_r)). (3)
// Nothing is divided by S, so S may be 0.
//
// What can go wrong is what can go wrong there, and (2) of it is the measure, with x = max |X_E|.
// One thing more: X_E is found in X beside u v^T / s, and what this is larger counts. An error of
// the solve is bounded, number by number, by eps |X| |L| |U| |X|: relative to a row or a column of
// X, c and r among them, it is eps |B| max |X|, and max |X| is at most twice the larger one y of x
// and |u| |v| / s. So the error of H is of the order of
//     D eps |B| y (|S| y + |u| |v|) y |Z|  beside the unit  n eps D (x + |B| / |d d'|) |Z|, (4)
// at most that measure for y, times y / x.
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
    const I e = (bits >> kLeadingFraction<R>)-Format<ScalarOf<V>>::kMaxExponent;
    return maximum(e, I(Format<ScalarOf<V>>::kMinExponent));
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
    const LargeFacts<V> facts = *m.facts;
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
    const int l = n - 1, k = facts.column;
    const V of_terms = facts.of_terms();
    const V of_x = fma(facts.ratio, trace, of_terms * w_at(l, k));
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
            const V of_w_row = -(of_terms * x_at(i, k));                       // - c W_r
            const V of_row = fma(-of_w_row, trace, -(of_terms * w_at(i, k)));  // (t c - W_c) r^T
            TORCHDET_UNROLL
            for (int e = 0; e < kCount; ++e) {
              const int j = w * kCount + e;
              V h = fnma(facts.ratio, conj(y[r].x[e]), of_x * conj(x[r].x[e]));
              h = fma(of_row, conj(x_row.x[e]), h);
              h = fma(of_w_row, conj(w_row.x[e]), h);
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
        [&](auto& algorithms, int64_t b) { write_hvp(algorithms, p, b); });
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
    const LargeFacts<V>& facts = *m.facts;
    const R size = facts.equilibration.is_identity ? from_leading_bits<R>(m.largest()) : R(2);
    const R s = exact_pow2<R>(facts.exponent);
    const R beside = s * c * r, y = maximum(x, beside);
    const R last = component_size(facts.ratio) * s;
    return inverse_serves_hvp(m.n, size, y, last, s * beside, facts.last_of_E[0],
                              facts.last_of_E[1], y / x);
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
