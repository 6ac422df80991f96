// Four steps of an elimination in one pass over rows, by strips of columns.
//
// With l_e the scaled pivot row of step e and p_e its column, the four steps take
//     b_i - f_1 l_1 - .. - f_4 l_4,   f_s = (b_i - f_1 l_1 - .. - f_(s-1) l_(s-1))_(p_s),
// from a row, whose factors depend on a few of its entries only. So all factors come first, with
// rows in the lanes; then strip after strip, whose parts of l stay in registers, goes over the
// rows. Where a matrix does not fit the L1 cache, that is half the traffic of two passes of two
// steps. Each entry gets the same operations as from one step after the other.
#pragma once

#include "row_matrix.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename P, int kMaxPacks>
class StripUpdate {
 public:
  static constexpr int kSteps = 4;
  P l[kSteps][kMaxPacks];

  // The factors of rows begin .. end - 1; p: the columns of the steps.
  TORCHDET_LANE void solve(const RowMatrix<P>& B, const int32_t* p, int begin, int end) {
    constexpr int W = LaneTraits<P>::kWidth;
    for (int64_t i = begin; i < end; ++i) {
      for (int s = 0; s < kSteps; ++s) {
        set_number(factor_[s], i, B.get(i, p[s]));
      }
    }
    for (int s = 1; s < kSteps; ++s) {
      for (int e = 0; e < s; ++e) {
        const P link = broadcast<P>(get_number(l[e], p[s]));
        for (int v = begin / W; v * W < end; ++v) {
          factor_[s][v] = fnma(factor_[e][v], link, factor_[s][v]);
        }
      }
    }
  }
  // Rows begin .. end - 1.
  TORCHDET_LANE void update(const RowMatrix<P>& B, int begin, int end) const {
    // As few strips as hold all packs, of nearly equal width.
    int64_t strips = (B.packs + kWidest - 1) / kWidest;
    for (int64_t v = 0; strips > 0; --strips) {
      const int64_t width = (B.packs - v + strips - 1) / strips;
      switch (width) {
        case kWidest:
          update_strip<kWidest>(B, v, begin, end);
          break;
        case kWidest - 1:
          update_strip<kWidest - 1>(B, v, begin, end);
          break;
        default:
          update_strip<kWidest - 2>(B, v, begin, end);
          break;
      }
      v += width;
    }
  }

 private:
  // 20 sources and 4 factors in 32 registers. The least is 3 where rows take eight packs or more.
  static constexpr int kWidest = 5;
  P factor_[kSteps][kMaxPacks];

  template <int kColumns>
  TORCHDET_LANE void update_strip(const RowMatrix<P>& B, int64_t v, int begin, int end) const {
    P source[kSteps][kColumns];
    for (int s = 0; s < kSteps; ++s) {
      for (int c = 0; c < kColumns; ++c) {
        source[s][c] = l[s][v + c];
      }
    }
    for (int i = begin; i < end; ++i) {
      P f[kSteps];
      for (int s = 0; s < kSteps; ++s) {
        f[s] = broadcast<P>(get_number(factor_[s], i));
      }
      for (int c = 0; c < kColumns; ++c) {
        P& x = B.row(i)[v + c];
        P y = x;
        for (int s = 0; s < kSteps; ++s) {
          y = fnma(f[s], source[s][c], y);
        }
        x = y;
      }
    }
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
