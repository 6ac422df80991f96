// The second half of a Gauss-Jordan elimination (rows/gauss_jordan.h), from what the first has
// left.
//
// Gauss subtracts multiples of row k from the rows below it, Jordan from those above, and row k at
// its step depends on Gauss alone. So a forward pass can stop at half of the operations, with
// the determinant, and the backward pass goes on from there. Each entry gets the same operations in
// the same order as where both go together. No pivot is searched here, so there is nothing to hide
// behind a second matrix.
#pragma once

#include "../saved/integers.h"
#include "state.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename P, int kPacks, int kMaxPacks>
class SecondHalf : public EliminationState<P, kPacks, kMaxPacks, 1> {
 public:
  using State = EliminationState<P, kPacks, kMaxPacks, 1>;
  using State::kLongRows, State::matrix, State::n, State::packs, State::row, State::State;
  using typename State::Number;

  // What is kept of matrix b; false where that is nothing.
  TORCHDET_LANE bool read(const Problem& p, int64_t b) {
    auto& f = State::facts[0];
    for (int v = 0; v < packs(); ++v) {
      f.pivot[v] = one<P>();
      f.row_exponent[v] = f.column_exponent[v] = IntegerOf<P>(0);
    }
    if (!KeptGauss<P>::read(p, b, f.odd, f.column, f.frame)) {
      return false;
    }
    read_rows<kPacks>(static_cast<const Number*>(p.kept) + b * n * n, n, matrix(0));
    f.frame.finite = true;
    f.frame.total = 0;
    for (int k = 0; k < n; ++k) {
      f.row[k] = k;
      f.frame.total -= f.frame.rows()[k] + f.frame.columns()[k];
      set_number(f.pivot, k, get_number(row(k, 0), f.column[k]));
    }
    return true;
  }

  // Z before its last step.
  [[gnu::noinline]] void run() const {
    int k = 0;
    if constexpr (kLongRows.by_strips) {
      for (; k + Strips::kSteps < n; k += Strips::kSteps) {
        advance_by_strips(k);
      }
    }
    for (; k + 2 < n; k += 2) {
      advance(k);
    }
    if (k + 1 < n) {
      P l[kMaxPacks];
      read_row(k, l);
      for (int i = 0; i < k; ++i) {
        subtract(row(i, 0), entry(i, k), l);
      }
      State::store_pivot_row(k, 0, l);
    }
  }

 private:
  static constexpr int kTogether = std::max(kLongRows.together, 2);
  using typename State::Strips;
  template <int kValue>
  using Constant = typename State::template Constant<kValue>;
  using State::subtract;

  // b_ip of step k.
  TORCHDET_LANE P entry(int i, int k) const {
    return broadcast<P>(get_number(row(i, 0), State::facts[0].column[k]));
  }
  // l of step k: the row, where the pivot is in the place of a zero.
  TORCHDET_LANE void read_row(int k, P* l) const {
    for (int v = 0; v < packs(); ++v) {
      l[v] = select(State::is_column(State::facts[0].column[k], v), zero<P>(), row(k, 0)[v]);
    }
  }

  // Steps k and k + 1, as in GaussJordan::advance.
  TORCHDET_LANE void advance(int k) const {
    P l[kMaxPacks], l2[kMaxPacks];
    read_row(k, l);
    read_row(k + 1, l2);
    const P link = entry(k, k + 1);
    const int64_t p = offset_of<P>(State::facts[0].column[k]);
    const int64_t q = offset_of<P>(State::facts[0].column[k + 1]);
    const auto update = [&]<int kRows>(int i, Constant<kRows>) {
      P f[kRows], g[kRows];
      for (int r = 0; r < kRows; ++r) {
        f[r] = State::broadcast_at(row(i + r, 0), p);
        g[r] = fnma(f[r], link, State::broadcast_at(row(i + r, 0), q));
      }
      for (int v = 0; v < packs(); ++v) {
        const P source = l[v], source2 = l2[v];
        for (int r = 0; r < kRows; ++r) {
          P& x = row(i + r, 0)[v];
          x = fnma(g[r], source2, fnma(f[r], source, x));
        }
      }
    };
    State::template for_rows<kTogether>(0, k, update);
    State::store_pivot_row(k, 0, l);
    subtract(row(k, 0), link, l2);
    State::store_pivot_row(k + 1, 0, l2);
  }

  TORCHDET_LANE void advance_by_strips(int k) const {
    Strips strips;
    int32_t p[Strips::kSteps];
    for (int s = 0; s < Strips::kSteps; ++s) {
      read_row(k + s, strips.l[s]);
      p[s] = State::facts[0].column[k + s];
    }
    strips.solve(matrix(0), p, 0, k);
    strips.update(matrix(0), 0, k);
    for (int s = 0; s < Strips::kSteps; ++s) {
      for (int e = 0; e < s; ++e) {
        subtract(row(k + e, 0), entry(k + e, k + s), strips.l[s]);
      }
      State::store_pivot_row(k + s, 0, strips.l[s]);
    }
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
