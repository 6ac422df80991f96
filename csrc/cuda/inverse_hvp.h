// Second derivatives of det from an inverse and two products, H[Z] being the derivative of the
// cofactors along Z: the formula, and where it serves.
//
// B^-1 is not what is inverted, but X = B'^-T, B' having another last pivot than B: s in place of
// S. In the order of the pivots B is ((E, e), (g^T, b)), S = b - g^T E^-1 e, and
//     B'^-1 = X_E + u v^T / s,   u = (-E^-1 e, 1),  v^T = (-g^T E^-1, 1),                       (1)
// with X_E the inverse of E, bordered by zeros (cpu/rows/det_hvp.h). B' differs from B in one entry
// (l, p), in the row and the column that come last, and has s, a power of two of the size of the
// largest pivot ("large") or above the largest entry, where B has S, which may be 0. X is a
// transpose: its row l is r^T = u^T / s, its column p c = v / s. With q = S / s, and as det B = q
// det B',
//     C(B) = det B' (q X + (1 - q) s c r^T),                                                    (2)
// which is linear in the entry. So a matrix of rank n - 1 is like any other as long as E is
// regular. It is not where a row of B depends on the rows before it, as one of zeros does.
//
// With W = X Z^T X and t = tr(X^T Z), H(B')[Z] = det B' (t X - W). B differs from B' by (q - 1) s
// in the entry (l, p) alone, of which det, and so each of its derivatives, is a linear function:
// H(B)[Z] = H(B')[Z] + (q - 1) s dH, where d is the derivative along that entry. With W_c = W[:,
// p], W_r = W[l, :] and X_lp = 1 / s
//     d det = det X_lp,   dX = -c r^T,   dt = -W_lp,   dW = -c W_r - W_c r^T,
// which makes
//     H(B)[Z] = det B' (q (t X - W) + (1 - q) s (W_lp X + (t c - W_c) r^T - c W_r)). (3)
// Nothing is divided by S, so S may be 0.
//
// What can go wrong is what can go wrong in cpu/rows/det_hvp.h, and (2) there is the measure, with
// x = max |X_E|. One thing more: X_E is found in X beside u v^T / s, and what this is larger
// counts. An error of the inversion is bounded, number by number, by eps |X| |L| |U| |X|: relative
// to a row or a column of X, c and r among them, it is eps |B| max |X|, and max |X| is at most
// twice the larger one y of x and |u| |v| / s. So the error of H is of the order of
//     D eps |B| y (|S| y + |u| |v|) y |Z|  beside the unit  n eps D (x + |B| / |d d'|) |Z|, (4)
// at most that measure for y, times y / x.
#pragma once

#include "block/matrix.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// In "warp" and "block" s is 2^kAboveEntries times the largest entry of B, rounded down to a power
// of two. The larger s is, the less is u v^T / s beside X_E, and what (4) refuses. With more than 3
// it refuses no fewer matrices.
constexpr int kAboveEntries = 4;

// q, s = 2^exponent and the determinant of B' of the text above.
template <typename V>
struct InverseFacts {
  Equilibration<V> equilibration;
  Scaled<V> determinant;
  V ratio;
  IntegerOf<V> exponent;
  int row, column;         // of the entry in which B' differs from B
  int is_regular;          // E has no pivot that is zero
  RealOf<V> last_of_E[2];  // the sizes of its last two pivots

  // (1 - q) s.
  TORCHDET_DEVICE V of_terms() const {
    return scale_pow2(fnma(one<V>(), ratio, one<V>()), exponent);
  }
};

// Whether (4) is small enough: size is the largest number of B, those of X_E, c and r are x, c, r.
template <typename V>
TORCHDET_DEVICE bool inverse_serves_hvp(int n, const InverseFacts<V>& facts, RealOf<V> size,
                                        RealOf<V> x, RealOf<V> c, RealOf<V> r) {
  using R = RealOf<V>;
  const R s = exact_pow2<R>(facts.exponent);
  const R beside = s * c * r, y = maximum(x, beside);
  const R last = component_size(facts.ratio) * s;
  return inverse_serves_hvp(n, size, y, last, s * beside, facts.last_of_E[0], facts.last_of_E[1],
                            y / x);
}

// (3), but for det B', from t and the entry (l, p) of W.
template <typename V>
class HvpTerms {
 public:
  // What the terms of a row share, from its entries of c and W_c.
  struct Row {
    V of_r, of_w_row;
  };

  TORCHDET_DEVICE HvpTerms(const InverseFacts<V>& facts, V trace, V w_at_entry)
      : ratio_(facts.ratio),
        trace_(trace),
        of_terms_(facts.of_terms()),
        of_x_(fma(facts.ratio, trace, of_terms_ * w_at_entry)) {}

  TORCHDET_DEVICE Row row(V c, V w_column) const {
    const V of_w_row = -(of_terms_ * c);                                 // - c W_r
    return {fma(-of_w_row, trace_, -(of_terms_ * w_column)), of_w_row};  // (t c - W_c) r^T
  }
  TORCHDET_DEVICE V entry(V x, V w, V r, V w_row, const Row& row) const {
    const V h = fma(row.of_r, r, fnma(ratio_, w, of_x_ * x));
    return fma(row.of_w_row, w_row, h);
  }

 private:
  const V ratio_, trace_, of_terms_, of_x_;
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
