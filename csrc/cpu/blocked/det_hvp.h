// Hessian-vector products of the class "blocked": from the factors of its LU where they are well
// conditioned, else from the rank-revealing LDU. (fallback/rank_revealing.h takes either.)
#pragma once

#include "../fallback/rank_revealing.h"
#include "lu.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename P>
class BlockedHvp : protected RankRevealing<P> {
  using Base = RankRevealing<P>;

 public:
  using typename Base::I, typename Base::Integer, typename Base::M, typename Base::Number;
  static constexpr int W = M::W;

  BlockedHvp(int64_t n, Arena& arena) : Base(n, arena), lu_(K_, arena) {}

  // kDetHvp and kDetBackwardJvp of the class "blocked".
  static void det_hvp(const Problem& p, int64_t begin, int64_t end) {
    BlockedHvp work = thread_space<BlockedHvp>(p.n);
    for (int64_t b = begin; b < end; ++b) {
      work.factor(p, b);
      work.write_hvp(p, b);
    }
  }

 protected:
  using Base::A_, Base::K_, Base::frame_, Base::pivots_;

  void factor(const Problem& p, int64_t b) {
    if (!factor_partial(p, b)) {
      this->factor_complete(p, b);
    }
  }

 private:
  BlockedLu<P> lu_;  // of K

  // Partial pivoting does where its factors turn out to be well conditioned, as they nearly always
  // are: the errors of the results go with max |G| max |F|.
  bool factor_partial(const Problem& p, int64_t b) {
    this->read(p, b, K_);
    if (!frame_.finite || !lu_.factor()) {
      return false;
    }
    lu_.read_factors([&](int64_t k, const P* row) {
      const PivotQuotient<P> quotient(broadcast<P>(get_number(row, k)));
      for (int64_t v = 0; v < A_.packs; ++v) {
        const auto right = greater(lane_numbers<P>(), I(Integer(k - v * W)));
        A_.row(k)[v] = select(right, quotient(row[v]), row[v]);
      }
    });
    pivots_.start(A_.n);
    std::copy(lu_.row, lu_.row + A_.n, pivots_.row_index);
    std::swap(pivots_.column_index[lu_.exchanged], pivots_.column_index[A_.n - 1]);
    pivots_.sign = lu_.sign();
    return largest_of_inverse<true>(A_, K_) * largest_of_inverse<false>(A_, K_) <= kLargestGrowth;
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
