// One matrix per thread, each row a sequence of SIMD packs: the classes "rows" and "blocked".
//
// A pack P holds W neighbouring columns of one row (Vec, or Complex<Vec> with separate real and
// imaginary parts). Rows are padded with zero columns to whole packs. Almost all the work is one
// operation, rows -= coefficients * rows (subtract_products), with the rows in registers;
// factorisations and triangular solves are blocked to reach it.
#pragma once

#include "../math/equilibrate.h"
#include "../math/scaled.h"
#include "pack.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename P>
using NumberOf = std::conditional_t<kIsComplex<P>, Complex<ScalarOf<P>>, ScalarOf<P>>;

template <typename R>
TORCHDET_LANE R broadcast(ScalarOf<R> x, const R*) {
  return R(x);
}
template <typename R>
TORCHDET_LANE Complex<R> broadcast(Complex<ScalarOf<R>> x, const Complex<R>*) {
  return {R(x.re), R(x.im)};
}
template <typename P>
TORCHDET_LANE P broadcast(NumberOf<P> x) {
  return broadcast(x, static_cast<const P*>(nullptr));
}

template <typename P>
struct RowMatrix {
  using T = ScalarOf<P>;
  using Number = NumberOf<P>;
  static constexpr int W = LaneTraits<P>::kWidth;
  static constexpr int kParts = kIsComplex<P> ? 2 : 1;

  P* data;
  int64_t n, packs, stride;  // in packs

  RowMatrix(P* storage, int64_t order) : RowMatrix(storage, order, packs_for(order)) {}
  RowMatrix(P* storage, int64_t order, int64_t row_stride)
      : data(storage), n(order), packs(packs_for(order)), stride(row_stride) {}
  static int64_t packs_for(int64_t n) { return (n + W - 1) / W; }

  TORCHDET_LANE P* row(int64_t i) const { return data + i * stride; }
  TORCHDET_LANE T* part(int64_t i, int64_t j) const {
    return reinterpret_cast<T*>(row(i) + j / W) + j % W;
  }
  TORCHDET_LANE Number get(int64_t i, int64_t j) const {
    const T* p = part(i, j);
    if constexpr (kIsComplex<P>) {
      return {p[0], p[W]};
    } else {
      return *p;
    }
  }
  TORCHDET_LANE void set(int64_t i, int64_t j, Number x) const {
    T* p = part(i, j);
    if constexpr (kIsComplex<P>) {
      p[0] = x.re;
      p[W] = x.im;
    } else {
      *p = x;
    }
  }
  void clear() const { std::memset(static_cast<void*>(data), 0, sizeof(P) * n * packs); }
  void swap_rows(int64_t i, int64_t k) const {
    if (i != k) {
      std::swap_ranges(row(i), row(i) + packs, row(k));
    }
  }
};

// The numbers 0 .. W - 1, to compare a column index with.
template <typename P>
TORCHDET_LANE IntegerOf<P> lane_numbers() {
  using Raw = typename IntegerOf<P>::Raw;
  Raw r{};
  for (int i = 0; i < LaneTraits<P>::kWidth; ++i) {
    r[i] = i;
  }
  return IntegerOf<P>(r);
}

// Not finite where x is not.
template <typename R>
TORCHDET_LANE R component_sum(R x) {
  return x;
}
template <typename R>
TORCHDET_LANE R component_sum(Complex<R> x) {
  return x.re + x.im;
}

// Largest component over the lanes of a pack.
template <typename T, int W>
TORCHDET_LANE T largest_lane(Vec<T, W> x) {
  return fold_lanes(x, [](Vec<T, W> a, Vec<T, W> b) { return maximum(a, b); })[0];
}

// to[i][packs p .. p + NP) -= sum_k M(i, k) from[k][same packs] for MR rows i and k in [k_begin,
// k_end), where M(i, k) = F(k, i) if kTransposed, else F(i, k).
template <int MR, int NP, bool kTransposed, typename P>
TORCHDET_LANE void subtract_block(const RowMatrix<P>& to, const RowMatrix<P>& F,
                                  const RowMatrix<P>& from, int64_t i, int64_t k_begin,
                                  int64_t k_end, int64_t p) {
  P sum[MR][NP];
  for (int m = 0; m < MR; ++m) {
    for (int q = 0; q < NP; ++q) {
      sum[m][q] = to.row(i + m)[p + q];
    }
  }
  for (int64_t k = k_begin; k < k_end; ++k) {
    P source[NP];
    for (int q = 0; q < NP; ++q) {
      source[q] = from.row(k)[p + q];
    }
    for (int m = 0; m < MR; ++m) {
      const P factor = broadcast<P>(kTransposed ? F.get(k, i + m) : F.get(i + m, k));
      for (int q = 0; q < NP; ++q) {
        sum[m][q] = fnma(factor, source[q], sum[m][q]);
      }
    }
  }
  for (int m = 0; m < MR; ++m) {
    for (int q = 0; q < NP; ++q) {
      to.row(i + m)[p + q] = sum[m][q];
    }
  }
}

template <int MR, bool kTransposed, typename P>
void subtract_rows(const RowMatrix<P>& to, const RowMatrix<P>& F, const RowMatrix<P>& from,
                   int64_t i, int64_t k_begin, int64_t k_end, int64_t p, int64_t p_end) {
  constexpr int NP = kIsComplex<P> ? 1 : 3;
  for (; p + NP <= p_end; p += NP) {
    subtract_block<MR, NP, kTransposed>(to, F, from, i, k_begin, k_end, p);
  }
  for (; p < p_end; ++p) {
    subtract_block<MR, 1, kTransposed>(to, F, from, i, k_begin, k_end, p);
  }
}

template <bool kTransposed, typename P>
void subtract_products(const RowMatrix<P>& to, const RowMatrix<P>& F, const RowMatrix<P>& from,
                       int64_t i_begin, int64_t i_end, int64_t k_begin, int64_t k_end,
                       int64_t p_begin, int64_t p_end) {
  if (k_begin >= k_end || p_begin >= p_end) {
    return;
  }
  int64_t i = i_begin;
  for (; i + 4 <= i_end; i += 4) {
    subtract_rows<4, kTransposed>(to, F, from, i, k_begin, k_end, p_begin, p_end);
  }
  for (; i < i_end; ++i) {
    subtract_rows<1, kTransposed>(to, F, from, i, k_begin, k_end, p_begin, p_end);
  }
}

constexpr int64_t kRowBlock = 16;

// X <- M^-1 X for the triangle of M(i, k) = F(k, i) if kTransposed, else F(i, k), below the
// diagonal if kForward, else above it. kUnit: ones on the diagonal; otherwise rows are divided by
// it. kTriangularX: X starts as a lower triangle (and kForward keeps it one), so that packs right
// of the diagonal block are zero and left alone.
template <bool kForward, bool kTransposed, bool kUnit, bool kTriangularX = false, typename P>
void solve_triangular(const RowMatrix<P>& F, const RowMatrix<P>& X) {
  using M = RowMatrix<P>;
  const int64_t n = X.n, blocks = (n + kRowBlock - 1) / kRowBlock;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t begin = (kForward ? b : blocks - 1 - b) * kRowBlock;
    const int64_t end = std::min(begin + kRowBlock, n);
    const int64_t p_end = kTriangularX ? M::packs_for(end) : X.packs;
    subtract_products<kTransposed>(X, F, X, begin, end, kForward ? 0 : end, kForward ? begin : n, 0,
                                   p_end);
    for (int64_t s = 0; s < end - begin; ++s) {
      const int64_t i = kForward ? begin + s : end - 1 - s;
      subtract_products<kTransposed>(X, F, X, i, i + 1, kForward ? begin : i + 1,
                                     kForward ? i : end, 0, p_end);
      if constexpr (!kUnit) {
        const P inverse = broadcast<P>(reciprocal(F.get(i, i)));
        for (int64_t p = 0; p < p_end; ++p) {
          X.row(i)[p] = X.row(i)[p] * inverse;
        }
      }
    }
  }
}

template <typename P>
void transpose(const RowMatrix<P>& X) {
  for (int64_t i = 0; i < X.n; ++i) {
    for (int64_t j = 0; j < i; ++j) {
      const NumberOf<P> x = X.get(i, j);
      X.set(i, j, X.get(j, i));
      X.set(j, i, x);
    }
  }
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
