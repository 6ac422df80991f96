// Kernels of the class "large" that come after the LU: determinants, and the cofactors of
// (2) in inverse_hvp.h.
//
// Cofactors fail only where a pivot of E is exactly zero or X leaves the range of the format: such
// a matrix is done again by the rank-revealing LDU of a block, in the memory that X and the result
// take. Nothing is decided on the host: the kernel that does so is always started.
#pragma once

#include "../team/kernels.h"
#include "kept.h"
#include "prepare.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// A block for each matrix: what only takes the diagonal of the factors.
template <typename V>
struct DiagonalKernel : LargeKernel<V> {
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  static constexpr int kThreads = 128, kBlocksPerSm = 4;
  using Own = Team<kThreads>;
  static constexpr size_t kSharedBytes = Own::kAllSlotBytes;
  static int64_t count_blocks(const Problem& p) { return p.batch; }

  TORCHDET_DEVICE static V pivot(const LargeMatrix<V>& m, int k) {
    return m.factors[int64_t(k) * (m.n + 1)];
  }

  // The product of the first `count` pivots, with the sign of all row exchanges.
  TORCHDET_DEVICE static Scaled<V> product(const Problem& p, const LargeMatrix<V>& m, int count,
                                           Own& team) {
    Scaled<V> own = scaled_one<V>();
    team.for_each(0, m.n, [&](int k) {
      own = k < count ? own * pivot(m, k) : own;
      own.mantissa = p.large.pivots[m.b * p.n + k] == k + 1 ? own.mantissa : -own.mantissa;
    });
    return team.reduce(own, [](const Scaled<V>& x, const Scaled<V>& y) { return x * y; });
  }

  TORCHDET_DEVICE static bool is_finite(const LargeMatrix<V>& m) {
    return m.largest() < leading_bits_of_pow2<R>(Format<ScalarOf<V>>::kMaxExponent + 1);
  }
  TORCHDET_DEVICE static Equilibration<V> equilibration(const LargeMatrix<V>& m, bool is_balanced,
                                                        bool is_finite, Own& team) {
    I total = 0;
    if (!is_balanced) {
      team.for_each(0, m.n, [&](int k) { total -= m.vectors.row[k] + m.vectors.column[k]; });
      total = team.reduce(total, [](I x, I y) { return x + y; });
    }
    using T = ScalarOf<V>;
    return {total, is_finite ? R(T(-0.0)) : R(std::numeric_limits<T>::quiet_NaN()), is_balanced};
  }
};

// kDet and kSlogdet.
template <typename V>
struct LargeDeterminants : DiagonalKernel<V> {
  TORCHDET_DEVICE static void run(const Problem& p) {
    const LargeMatrix<V> m(p, block_index());
    typename LargeDeterminants::Own team(shared_memory<unsigned char>());
    const Equilibration<V> eq =
        LargeDeterminants::equilibration(m, m.is_balanced(), LargeDeterminants::is_finite(m), team);
    Scaled<V> d = LargeDeterminants::product(p, m, m.n, team);
    d.mantissa = add_poison(d.mantissa, eq.poison);
    d.exponent = d.exponent + eq.total;
    if (team.is_first()) {
      write_determinant(p, m.b, d);
    }
  }
};

// The facts of a matrix, and s in place of the last pivot of the factors. Of slogdet, whose
// gradient is B^-T itself, the last pivot stays: q = 1.
//
// In a forward pass that keeps the factors (kDet and kSlogdet) it comes last, for s, and writes the
// integers. In the backward pass s is there, nothing of the factors is changed, and the exchanges,
// which torch's solve is given, are taken from those integers.
template <typename V>
struct LargePivots : DiagonalKernel<V> {
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  using Own = typename DiagonalKernel<V>::Own;

  TORCHDET_DEVICE static void run(const Problem& p) {
    const LargeMatrix<V> m(p, block_index());
    Own team(shared_memory<unsigned char>());
    const int last = m.n - 1;
    const bool keeps_last = p.op == Op::kSlogdetBackward || p.op == Op::kSlogdet;
    const bool resumes = p.kept != nullptr;
    InverseFacts<V> facts;
    int is_regular = 1;
    V of_last;
    if (resumes) {
      const LargeIntegers<const int32_t> kept(p.kept_integers, m.n, m.b);
      is_regular = take(p, m, kept, team) && kept.are_of(keeps_last) ? 1 : 0;
      of_last = kept.template last_pivot<V>();
      facts.equilibration = LargePivots::equilibration(m, kept.is_balanced(),
                                                       kept.is_finite() || is_regular == 0, team);
    } else {
      of_last = LargePivots::pivot(m, last);
      facts.equilibration =
          LargePivots::equilibration(m, m.is_balanced(), LargePivots::is_finite(m), team);
    }
    facts.determinant = LargePivots::product(p, m, keeps_last ? m.n : last, team);
    R largest = 0;
    team.for_each(0, m.n, [&](int k) {
      const V pivot = k == last ? of_last : LargePivots::pivot(m, k);
      const bool counts = k < last || keeps_last;
      is_regular = counts && pivot_size(pivot) == R(0) ? 0 : is_regular;
      largest = maximum(largest, component_size(pivot));
    });
    largest = team.reduce(largest, [](R x, R y) { return maximum(x, y); });
    is_regular = largest <= std::numeric_limits<ScalarOf<V>>::max() ? is_regular : 0;
    facts.is_regular = team.reduce(is_regular, [](int x, int y) { return x & y; });
    facts.exponent = largest > R(0) && facts.is_regular ? exponent_of(largest) : I(0);
    TORCHDET_UNROLL
    for (int e = 0; e < 2; ++e) {
      const int k = last - 1 - e;
      facts.last_of_E[e] = k < 0 ? R(std::numeric_limits<ScalarOf<V>>::infinity())
                                 : component_size(LargePivots::pivot(m, k));
    }
    if (thread_index() < kWarpSize) {
      facts.column = row_at_last_place(p, m);
    }
    facts.row = last;
    if (team.is_first()) {
      facts.ratio = one<V>();
      if (!keeps_last) {
        facts.ratio = scale_pow2(of_last, -facts.exponent);
        facts.determinant.exponent = facts.determinant.exponent + facts.exponent;
        if (!resumes) {
          m.factors[int64_t(last) * (m.n + 1)] = scale_pow2(one<V>(), facts.exponent);
        }
      }
      *m.facts = facts;
    }
    if (p.integers != nullptr && !resumes) {
      keep(p, m, facts.equilibration, of_last, keeps_last, team);
    }
  }

 private:
  // Exchanges and exponents from what is kept. False where an exchange leads out of the matrix, or
  // back: it is replaced by one that does not.
  TORCHDET_DEVICE static bool take(const Problem& p, const LargeMatrix<V>& m,
                                   const LargeIntegers<const int32_t>& kept, Own& team) {
    int is_inside = 1;
    team.for_each(0, m.n, [&](int k) {
      const int32_t with = kept.exchange(k);
      const int32_t inside = minimum(maximum(with, k + 1), m.n);
      is_inside = with == inside ? is_inside : 0;
      p.large.pivots[m.b * p.n + k] = inside;
      m.vectors.row[k] = kept.row_exponent(k);
      m.vectors.column[k] = kept.column_exponent(k);
    });
    return team.reduce(is_inside, [](int x, int y) { return x & y; }) != 0;
  }

  TORCHDET_DEVICE static void keep(const Problem& p, const LargeMatrix<V>& m,
                                   const Equilibration<V>& eq, V of_last, bool keeps_last,
                                   Own& team) {
    const LargeIntegers<int32_t> kept(p.integers, m.n, m.b);
    team.for_each(0, kept.count(), [&](int k) { kept.clear(k); });
    team.sync();
    team.for_each(0, m.n, [&](int k) {
      kept.exchange(k) = p.large.pivots[m.b * p.n + k];
      if (!eq.is_identity) {
        kept.set_exponents(k, m.vectors.row[k], m.vectors.column[k]);
      }
    });
    if (team.is_first()) {
      kept.set_state(keeps_last, eq.is_identity, eq.poison == R(0));
      kept.set_last_pivot(of_last);
    }
  }

  // The row of B^T that the exchanges bring to the last place, by one warp: the way back from
  // there. Exchange k is of places k and pivots[k] >= k, so of those up to a place only the last
  // one that names it matters.
  TORCHDET_DEVICE static int row_at_last_place(const Problem& p, const LargeMatrix<V>& m) {
    const int32_t* const pivots = p.large.pivots + m.b * p.n;
    int place = m.n - 1;
    for (int first = (m.n - 1) / kWarpSize * kWarpSize; first >= 0; first -= kWarpSize) {
      const int k = first + thread_index();
      const int other = k < m.n ? pivots[k] - 1 : -1;
      int found;
      do {
        found = reduce_maximum_in_warp(other == place && k < place ? k : -1);
        place = found >= 0 ? found : place;
      } while (found >= 0);
    }
    return place;
  }
};

// kCofactor, kDetBackward and kSlogdetBackward.
template <typename V>
struct LargeCofactors : StripKernel<V> {
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  static constexpr int kCount = Chunk<V>::kCount;

  TORCHDET_DEVICE static void run(const Problem& p) {
    const LargeMatrix<V> m(p, LargeCofactors::matrix_index(p));
    const int strip = LargeCofactors::strip_index(p), begin = strip * kStripRows, n = m.n;
    const InverseFacts<V> facts = *m.facts;
    const R poison = facts.equilibration.poison;
    const bool is_whole = m.has_whole_words();
    // slogdet divides by the determinant again, so there it is left out.
    Scaled<V> factor = gradient_factor(p, m.b, scaled_one<V>(), facts.equilibration.total);
    if (p.op != Op::kSlogdetBackward) {
      factor = factor * facts.determinant;
    }
    const V of_terms = facts.of_terms();
    R check = 0;
    for (int w = thread_index(); w < words_of<V>(n); w += kStripThreads) {
      const Chunk<V> row = load_word(m.inverse + int64_t(n - 1) * n, w, n, is_whole);
      TORCHDET_ROLL
      for (int r0 = 0; r0 < kStripRows && begin + r0 < n; r0 += kRowsAhead) {
        Chunk<V> x[kRowsAhead];
        V column[kRowsAhead];
        TORCHDET_UNROLL
        for (int r = 0; r < kRowsAhead; ++r) {
          const int i = minimum(begin + r0 + r, n - 1);
          x[r] = load_word(m.inverse + int64_t(i) * n, w, n, is_whole);
          column[r] = of_terms * conj(m.inverse[int64_t(i) * n + facts.column]);
        }
        TORCHDET_UNROLL
        for (int r = 0; r < kRowsAhead; ++r) {
          const int i = begin + r0 + r;
          if (i < n) {
            TORCHDET_UNROLL
            for (int e = 0; e < kCount; ++e) {
              const int j = w * kCount + e;
              const V y = fma(column[r], conj(row.x[e]), facts.ratio * conj(x[r].x[e]));
              check = add_nothing(y, check);
              const V c =
                  scale_pow2(y * factor.mantissa, factor.exponent + (j < n ? m.shift(i, j) : I(0)));
              x[r].x[e] = add_poison(p.op == Op::kCofactor ? c : conj(c), poison);
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

// What the other kernels leave, by the LDU of a block, one matrix after the other.
template <typename V>
struct LargeLdu : LargeKernel<V> {
  using R = RealOf<V>;
  static constexpr int kThreads = 512, kBlocksPerSm = 1;
  using Own = Team<kThreads>;
  static constexpr size_t kSharedBytes = Own::kAllSlotBytes;
  static int64_t count_blocks(const Problem& p) { return std::min(p.batch, p.large.ldu_blocks); }

  // body(algorithms, b, equilibration) for the matrices b that is_done(matrix, team) denies,
  // equilibrated in A. Not finite ones are done: all of their result is NaN.
  template <typename Done, typename Body>
  TORCHDET_DEVICE static void for_matrices(const Problem& p, Done is_done, Body body) {
    Own team(shared_memory<unsigned char>());
    for (int64_t b = block_index(); b < p.batch; b += block_count()) {
      const LargeMatrix<V> m(p, b);
      if (!(m.facts->equilibration.poison == R(0)) || is_done(m, team)) {
        continue;
      }
      // The matrix that is factored has no use any more where the other one is written to `out`.
      const TeamSpace<V> space({m.out, m.n, m.n}, {m.inverse, m.n, m.n}, m.vectors);
      TeamAlgorithms<V, kThreads> algorithms(team, space);
      algorithms.read(p.A, b);
      const Equilibration<V> eq = algorithms.equilibrate();
      body(algorithms, b, eq);
    }
  }
  // Whether no pivot was zero, and all of the result is finite.
  TORCHDET_DEVICE static bool is_regular(const LargeMatrix<V>& m, Own& team) {
    int good = m.facts->is_regular;
    team.for_each(0, LargeMatrix<V>::count_strips(m.n) * kStripWarps,
                  [&](int t) { good &= m.terms[t].is_finite; });
    return team.reduce(good, [](int x, int y) { return x & y; }) != 0;
  }
};

template <typename V>
struct LargeCofactorsByLdu : LargeLdu<V> {
  TORCHDET_DEVICE static void run(const Problem& p) {
    LargeCofactorsByLdu::for_matrices(
        p, [](const auto& m, auto& team) { return LargeCofactorsByLdu::is_regular(m, team); },
        [&](auto& algorithms, int64_t b, const Equilibration<V>& eq) {
          write_cofactors(algorithms, p, b, eq);
        });
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
