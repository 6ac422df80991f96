// Kernels of the class "rows": a matrix read into packs, eliminated (sweep.h), and its result
// written.
#pragma once

#include "jordan.h"
#include "rank_revealing.h"
#include "sweep.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename P, int kPacks, int kMaxPacks, int kGroup>
struct SweepKernel {
  using S = Sweep<P, kPacks, kMaxPacks, kGroup>;
  using T = typename S::T;
  using R = typename S::R;
  using I = typename S::I;
  using Number = typename S::Number;
  using Integer = typename S::Integer;
  static constexpr int W = S::W;

  // For what is left of a batch behind the last whole group. The result of a matrix has the same
  // bits in any group.
  using Alone = SweepKernel<P, 0, std::max(kMaxPacks, kOrderOfWord / W), 1>;

  // kDet and kSlogdet; kDetKeep and kSlogdetKeep, which keep the first half of an elimination.
  static void determinants(const Problem& p, int64_t begin, int64_t end) {
    S sweep(static_cast<int>(p.n), storage(p.n));
    int64_t first = begin;
    for (; first + kGroup <= end; first += kGroup) {
      sweep.read(p.A, first);
      sweep.template run<false>(keeps(p.op) ? result_matrix<P>(p, first) : nullptr);
      for (int m = 0; m < kGroup; ++m) {
        const auto& f = sweep.facts[m];
        write_determinant(p, first + m, sweep.product(m, true), f.frame);
        if (keeps(p.op)) {
          const bool is_useful = f.frame.finite && !f.zero_pivot;
          if (!is_useful || !KeptGauss<P>::write(p, first + m, f.odd, f.lane, f.frame)) {
            keep_nothing<P>(p, first + m);
          }
        }
      }
    }
    if (kGroup > 1 && first < end) {
      Alone::determinants(p, first, end);
    }
  }

  // All operators that need the inverse.
  static void cofactor_matrices(const Problem& p, int64_t begin, int64_t end) {
    S sweep(static_cast<int>(p.n), storage(p.n));
    int64_t first = begin;
    for (; first + kGroup <= end; first += kGroup) {
      sweep.read(p.A, first);
      sweep.template run<true>();
      bool left[kGroup];  // for RankRevealing, which takes the scratch of the whole group
      for (int m = 0; m < kGroup; ++m) {
        const auto& f = sweep.facts[m];
        const bool has_none = !f.frame.finite || f.no_cofactors;
        if (has_none) [[unlikely]] {
          fill_without_cofactors(p, first + m, f.frame);
        }
        left[m] = !has_none && !write(p, first + m, sweep, m);
      }
      for (int m = 0; m < kGroup; ++m) {
        if (left[m]) [[unlikely]] {
          RankRevealing<P>::cofactor_matrix(p, first + m);
        }
      }
    }
    if (kGroup > 1 && first < end) {
      Alone::cofactor_matrices(p, first, end);
    }
  }

  // kDetBackward and kSlogdetBackward from the first half, with the bits of cofactor_matrices.
  static void from_kept(const Problem& p, int64_t begin, int64_t end) {
    Jordan<P, kPacks, kMaxPacks> jordan(static_cast<int>(p.n), storage(p.n));
    for (int64_t b = begin; b < end; ++b) {
      if (!jordan.read(p, b)) [[unlikely]] {
        Alone::cofactor_matrices(p, b, b + 1);
        continue;
      }
      jordan.run();
      if (!write(p, b, jordan, 0)) [[unlikely]] {
        RankRevealing<P>::cofactor_matrix(p, b);
      }
    }
  }

 private:
  static P* storage(int64_t n) {
    const size_t bytes = sizeof(P) * kGroup * n * RowMatrix<P>::packs_for(n);
    // RankRevealing takes the thread's scratch between two groups: enough for it, lest it moves.
    return static_cast<P*>(thread_scratch(std::max(bytes, space_bytes<RankRevealing<P>>(n))));
  }

  // Writes the result of matrix b from (1) and (2) of sweep.h; false where an entry of Z left the
  // range.
  template <typename State>
  TORCHDET_LANE static bool write(const Problem& p, int64_t b, const State& sweep, int m) {
    const auto& f = sweep.facts[m];
    const int n = sweep.n;
    sweep.last_step(m);
    const Scaled<Number> common =
        result_factor(p, b, sweep.product(m, false), sweep.last_pivot(m), f.frame);
    // Column p_s of Z lacks the factor -1 / d_s, or -1 for the last s.
    P factor[kMaxPacks];
    I row_exponent[kMaxPacks];
    for (int v = 0; v < sweep.packs(); ++v) {
      const auto last = S::is_column(n - 1, v);
      const Scaled<P> d = normalise(select(last, one<P>(), f.pivot[v]), I(0));
      factor[v] = -(broadcast<P>(common.mantissa) * reciprocal(d.mantissa));
      row_exponent[v] = I(common.exponent) + f.row_exponent[v] - d.exponent;
    }
    int32_t step_of[S::kMaxOrder];
    for (int k = 0; k < n; ++k) {
      step_of[f.lane[k]] = k;
    }
    R column_factor[kMaxPacks];
    const InverseOrder<P> order = {step_of,      step_of,           f.row,        factor,
                                   row_exponent, f.column_exponent, column_factor};
    return write_inverse<kPacks>(sweep.matrix(m), order, p.op, result_matrix<P>(p, b));
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
