// Kernels of the class "blocked": one matrix at a time, read into packs, eliminated (elimination.h)
// and its result written.
#pragma once

#include "elimination.h"
#include "rank_revealing.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename P>
struct BlockedKernels {
  using R = RealOf<P>;
  using I = IntegerOf<P>;
  using Number = NumberOf<P>;

  struct Space {
    Elimination<P> elimination;
    Frame<P> frame;
    I* largest_of_column;
    P* factor;
    I* row_exponent;  // in the order of the steps
    R* column_factor;
    int32_t* step_of;
    int32_t* source_row;
    Space(int64_t n, Arena& arena) : elimination(n, arena) {
      const int64_t packs = elimination.A.packs;
      frame.row_exponent = arena.take<I>(packs);
      frame.column_exponent = arena.take<I>(packs);
      largest_of_column = arena.take<I>(packs);
      factor = arena.take<P>(packs);
      row_exponent = arena.take<I>(packs);
      column_factor = arena.take<R>(packs);
      step_of = arena.take<int32_t>(n);
      source_row = arena.take<int32_t>(n);
    }
  };

  // kDet and kSlogdet.
  static void determinants(const Problem& p, int64_t begin, int64_t end) {
    Space s = thread_space<Space>(p.n);
    for (int64_t b = begin; b < end; ++b) {
      read(p.A, b, s);
      const Scaled<Number> d = s.frame.finite ? s.elimination.determinant() : scaled_one<Number>();
      write_determinant(p, b, d, s.frame);
    }
  }

  // All operators that need the inverse.
  static void cofactor_matrices(const Problem& p, int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      Space s = thread_space<Space>(p.n);
      read(p.A, b, s);
      const bool has_cofactors = s.frame.finite && s.elimination.adjugate();
      if (keeps_gradient(p.op)) {
        const Scaled<Number> none = {zero<Number>(), typename Frame<P>::Integer(0)};
        write_determinant(p, b, has_cofactors ? s.elimination.signed_product(true) : none, s.frame);
      }
      if (!has_cofactors) {
        fill_without_cofactors(p, b, s.frame);
      } else if (!write(p, b, s)) {
        RankRevealing<P>::cofactor_matrix(p, b);
      }
    }
  }

 private:
  static void read(const BatchView& view, int64_t b, Space& s) {
    read_matrix<0>(view, b, s.elimination.A);
    equilibrate_rows<0>(s.elimination.A, s.frame, s.largest_of_column);
  }

  // From (4) of elimination.h; false where an entry of Z left the range.
  static bool write(const Problem& p, int64_t b, Space& s) {
    const Elimination<P>& e = s.elimination;
    const Scaled<Number> common =
        result_factor(p, b, e.signed_product(false), e.last_pivot(), s.frame);
    std::fill(s.factor, s.factor + e.A.packs, broadcast<P>(common.mantissa));
    auto* row_exponent = reinterpret_cast<typename Frame<P>::Integer*>(s.row_exponent);
    for (int64_t k = 0; k < e.n; ++k) {
      row_exponent[k] = common.exponent + s.frame.rows()[e.row[k]];
      s.step_of[k] = static_cast<int32_t>(k);
      s.source_row[e.column[k]] = e.row[k];
    }
    const InverseOrder<P> order = {s.step_of,      s.source_row,   e.row,
                                   s.factor,       s.row_exponent, s.frame.column_exponent,
                                   s.column_factor};
    return write_inverse<0>(e.A, order, p.op, result_matrix<P>(p, b));
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
