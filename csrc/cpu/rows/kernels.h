// Kernels of the class "rows": a matrix read into packs, eliminated (rows/gauss_jordan.h), and its
// result written.
#pragma once

#include "../fallback/rank_revealing.h"
#include "../gradient_and_inverse.h"
#include "gauss_jordan.h"
#include "second_half.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename P, int kPacks, int kMaxPacks, int kGroup>
struct RowsKernels {
  using Elimination = GaussJordan<P, kPacks, kMaxPacks, kGroup>;
  using T = typename Elimination::T;
  using R = typename Elimination::R;
  using I = typename Elimination::I;
  using Number = typename Elimination::Number;
  using Integer = typename Elimination::Integer;
  static constexpr int W = Elimination::W;

  // For what is left of a batch behind the last whole group. The result of a matrix has the same
  // bits in any group.
  using Alone = RowsKernels<P, 0, std::max(kMaxPacks, kOrderOfWord / W), 1>;

  // kDet, kSlogdet and kDetFrexp; kDetKeep and kSlogdetKeep, which keep the first half of an
  // elimination.
  static void determinants(const Problem& p, int64_t begin, int64_t end) {
    Elimination elimination(static_cast<int>(p.n), storage(p.n));
    int64_t first = begin;
    for (; first + kGroup <= end; first += kGroup) {
      elimination.read(p.A, first);
      elimination.template run<false>(keeps(p.op) ? result_matrix<P>(p, first) : nullptr);
      for (int m = 0; m < kGroup; ++m) {
        const auto& f = elimination.facts[m];
        write_determinant(p, first + m, elimination.product(m, true), f.frame);
        if (keeps(p.op)) {
          const bool is_useful = f.frame.finite && !f.zero_pivot;
          if (!is_useful || !KeptGauss<P>::write(p, first + m, f.odd, f.column, f.frame)) {
            keep_nothing<P>(p, first + m);
          }
        }
      }
    }
    if (kGroup > 1 && first < end) {
      Alone::determinants(p, first, end);
    }
  }

  // kCofactor, kDetBackward and kSlogdetBackward, also with Problem::inverse.
  static void cofactor_matrices(const Problem& p, int64_t begin, int64_t end) {
    const GradientAndInverse<P> results(p);
    Elimination elimination(static_cast<int>(p.n), storage(p.n));
    int64_t first = begin;
    for (; first + kGroup <= end; first += kGroup) {
      elimination.read(p.A, first);
      for (const Problem* result : results) {
        expect_results<P>(*result, first, kGroup);
      }
      elimination.template run<true>();
      bool needs_fallback[kGroup];  // RankRevealing takes the scratch of the whole group
      for (int m = 0; m < kGroup; ++m) {
        const auto& f = elimination.facts[m];
        const bool has_none = !f.frame.finite || f.no_cofactors;
        needs_fallback[m] = false;
        if (!has_none) [[likely]] {
          elimination.last_step(m);
        }
        for (const Problem* result : results) {
          if (has_none) [[unlikely]] {
            fill_without_cofactors(*result, first + m, f.frame);
          } else {
            // write() looks at Z alone, so it says the same of both results.
            needs_fallback[m] = !write(*result, first + m, elimination, m);
          }
        }
      }
      for (int m = 0; m < kGroup; ++m) {
        for (const Problem* result : results) {
          if (needs_fallback[m]) [[unlikely]] {
            RankRevealing<P>::cofactor_matrix(*result, first + m);
          }
        }
      }
    }
    if (kGroup > 1 && first < end) {
      Alone::cofactor_matrices(p, first, end);
    }
  }

  // kDetBackward and kSlogdetBackward from the first half, with the bits of cofactor_matrices.
  static void from_kept(const Problem& p, int64_t begin, int64_t end) {
    const GradientAndInverse<P> results(p);
    SecondHalf<P, kPacks, kMaxPacks> second_half(static_cast<int>(p.n), storage(p.n));
    for (int64_t b = begin; b < end; ++b) {
      if (!second_half.read(p, b)) [[unlikely]] {
        Alone::cofactor_matrices(p, b, b + 1);
        continue;
      }
      second_half.run();
      second_half.last_step(0);
      bool in_range = true;
      for (const Problem* result : results) {
        in_range = write(*result, b, second_half, 0);
      }
      for (const Problem* result : results) {
        if (!in_range) [[unlikely]] {
          RankRevealing<P>::cofactor_matrix(*result, b);
        }
      }
    }
  }

 private:
  static P* storage(int64_t n) {
    const size_t bytes = sizeof(P) * kGroup * n * RowMatrix<P>::packs_for(n);
    // RankRevealing takes the thread's scratch between two groups: enough for it, lest it moves.
    return static_cast<P*>(thread_scratch(std::max(bytes, space_bytes<RankRevealing<P>>(n))));
  }

  // Writes the result of matrix b by (1) and (2) of rows/gauss_jordan.h, after the last step; false
  // where an entry of the inverse left the range.
  template <typename State>
  TORCHDET_LANE static bool write(const Problem& p, int64_t b, const State& elimination, int m) {
    const auto& f = elimination.facts[m];
    const int n = elimination.n;
    const Scaled<Number> common =
        result_factor(p, b, elimination.product(m, false), elimination.last_pivot(m), f.frame);
    // Column p_s of Z lacks the factor -1 / d_s, or -1 for the last s.
    P factor[kMaxPacks];
    I row_exponent[kMaxPacks];
    for (int v = 0; v < elimination.packs(); ++v) {
      const auto last = Elimination::is_column(n - 1, v);
      const Scaled<P> d = normalise(select(last, one<P>(), f.pivot[v]), I(0));
      factor[v] = -(broadcast<P>(common.mantissa) * reciprocal(d.mantissa));
      row_exponent[v] = I(common.exponent) + f.row_exponent[v] - d.exponent;
    }
    int32_t step_of[Elimination::kMaxOrder];
    for (int k = 0; k < n; ++k) {
      step_of[f.column[k]] = k;
    }
    R column_factor[kMaxPacks];
    const InverseOrder<P> order = {step_of,      step_of,           f.row,        factor,
                                   row_exponent, f.column_exponent, column_factor};
    return write_inverse<kPacks>(elimination.matrix(m), order, p.op, result_matrix<P>(p, b));
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
