// Between memory, where a matrix has any strides, and a matrix whose rows lie in packs.
#pragma once

#include "../../problem.h"
#include "../simd/load_store.h"
#include "equilibrate.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename R, int W>
TORCHDET_LANE void transpose(Complex<R> (&x)[W]) {
  R re[W], im[W];
  for (int i = 0; i < W; ++i) {
    re[i] = x[i].re;
    im[i] = x[i].im;
  }
  transpose(re);
  transpose(im);
  for (int i = 0; i < W; ++i) {
    x[i] = {re[i], im[i]};
  }
}

// kPacks: packs per row where known at compile time, else 0.
template <int kPacks, typename P>
TORCHDET_LANE void read_rows(const NumberOf<P>* from, int64_t stride, const RowMatrix<P>& A) {
  using M = RowMatrix<P>;
  const int64_t packs = kPacks > 0 ? kPacks : A.packs;
  for (int64_t i = 0; i < A.n; ++i) {
    const auto* row = reinterpret_cast<const ScalarOf<P>*>(from + i * stride);
    P* const to = A.row(i);
    const auto load = [&](int64_t v, int64_t count) TORCHDET_LANE_LAMBDA {
      to[v] = load_numbers(row + v * M::W * M::kParts, count, static_cast<const P*>(nullptr));
    };
    for (int64_t v = 0; v < packs - 1; ++v) {
      load(v, M::W);  // whole: no test
    }
    load(packs - 1, A.n - (packs - 1) * M::W);
  }
}
template <typename P>
[[gnu::noinline]] void read_columns(const NumberOf<P>* from, int64_t stride,
                                    const RowMatrix<P>& A) {
  constexpr int W = RowMatrix<P>::W;
  for (int64_t i = 0; i < A.n; i += W) {
    for (int64_t v = 0; v < A.packs; ++v) {
      P x[W];
      for (int r = 0; r < W; ++r) {
        const auto* column = reinterpret_cast<const ScalarOf<P>*>(from + (v * W + r) * stride + i);
        x[r] = v * W + r < A.n ? load_numbers(column, A.n - i, static_cast<const P*>(nullptr))
                               : zero<P>();
      }
      transpose(x);
      for (int r = 0; r < W && i + r < A.n; ++r) {
        A.row(i + r)[v] = x[r];
      }
    }
  }
}
template <typename P>
[[gnu::noinline]] void read_strided(const NumberOf<P>* from, int64_t row_stride,
                                    int64_t column_stride, const RowMatrix<P>& A) {
  A.clear();
  for (int64_t i = 0; i < A.n; ++i) {
    for (int64_t j = 0; j < A.n; ++j) {
      A.set(i, j, from[i * row_stride + j * column_stride]);
    }
  }
}

// A = matrix b of the batch. kPacks as for read_rows.
template <int kPacks, typename P>
TORCHDET_LANE void read_matrix(const BatchView& view, int64_t b, const RowMatrix<P>& A) {
  const NumberOf<P>* from = static_cast<const NumberOf<P>*>(view.data) + view.offset(b);
  if (view.column_stride == 1) {
    read_rows<kPacks>(from, view.row_stride, A);
  } else if (view.row_stride == 1) {
    read_columns(from, view.column_stride, A);
  } else {
    read_strided(from, view.row_stride, view.column_stride, A);
  }
}

// The rows of A side by side.
template <typename P>
TORCHDET_LANE void write_rows(const RowMatrix<P>& A, NumberOf<P>* out) {
  using M = RowMatrix<P>;
  for (int64_t i = 0; i < A.n; ++i) {
    const P* const row = A.row(i);
    const auto store = [&](int64_t v, int64_t count) TORCHDET_LANE_LAMBDA {
      store_numbers(reinterpret_cast<ScalarOf<P>*>(out + i * A.n + v * M::W), row[v], count);
    };
    for (int64_t v = 0; v < A.packs - 1; ++v) {
      store(v, M::W);
    }
    store(A.packs - 1, A.n - (A.packs - 1) * M::W);
  }
}

// How the inverse of an elimination becomes the result: column q of Z, taken in step s =
// step_of[q], times a factor, is row target_row[s] of the result; and row source_row[j] of Z holds
// what belongs to column j.
template <typename P>
struct InverseOrder {
  const int32_t* step_of;
  const int32_t* source_row;
  const int32_t* target_row;
  P* factor;                         // step s in lane s; overwritten
  const IntegerOf<P>* row_exponent;  // step s in lane s
  const IntegerOf<P>* column_exponent;
  RealOf<P>* column_factor;  // space for the packs of a row
};

// By blocks of W x W; false where an entry of Z is not finite.
template <typename P, typename Finish>
TORCHDET_LANE bool write_blocks(const RowMatrix<P>& Z, const InverseOrder<P>& order,
                                NumberOf<P>* out, Finish finish) {
  using R = RealOf<P>;
  using T = ScalarOf<P>;
  constexpr int W = RowMatrix<P>::W;
  const int64_t n = Z.n;
  R check = R(T(0));
  for (int64_t q = 0; q < n; q += W) {
    int32_t step[W];
    NumberOf<P>* to[W];
    for (int r = 0; r < W; ++r) {
      step[r] = order.step_of[std::min(q + r, n - 1)];
      to[r] = out + order.target_row[step[r]] * n;
    }
    const auto block = [&](int64_t v, auto rows, auto columns) TORCHDET_LANE_LAMBDA {
      P x[W];
      for (int r = 0; r < W; ++r) {
        x[r] = r < columns ? Z.row(order.source_row[v * W + r])[q / W] : zero<P>();
      }
      transpose(x);
      R check_here = R(T(0));  // apart, so that no block waits for the one before it
      for (int r = 0; r < W; ++r) {
        if (r < rows) {
          check_here = fma(component_sum(x[r]), R(T(0)), check_here);
          store_numbers(reinterpret_cast<T*>(to[r] + v * W), finish(x[r], step[r], v), columns);
        }
      }
      check = check + check_here;  // NaN as soon as an entry is not finite
    };
    const std::integral_constant<int, W> whole;  // leaves no test within a block
    const auto blocks = [&](auto rows) TORCHDET_LANE_LAMBDA {
      for (int64_t v = 0; v < n / W; ++v) {
        block(v, rows, whole);
      }
      if (n % W > 0) {
        block(n / W, rows, n % W);
      }
    };
    if (n - q >= W) {
      blocks(whole);
    } else {
      blocks(n - q);
    }
  }
  return all_equal(bits_of(abs(check)), IntegerOf<P>(0));
}

// out = the result of an operator; conjugated if it is a gradient.
template <int kPacks, typename P>
TORCHDET_LANE bool write_inverse(const RowMatrix<P>& Z, const InverseOrder<P>& order, Op op,
                                 NumberOf<P>* out) {
  using R = RealOf<P>;
  using I = IntegerOf<P>;
  using T = ScalarOf<P>;
  using Integer = typename Format<T>::Integer;
  constexpr int W = RowMatrix<P>::W;
  const int64_t packs = kPacks > 0 ? kPacks : Z.packs;
  const R imaginary_sign = R(op == Op::kCofactor || op == Op::kDetHvp ? T(1) : T(-1));
  const auto conjugated = [&](P y) TORCHDET_LANE_LAMBDA {
    if constexpr (kIsComplex<P>) {
      y.im = y.im * imaginary_sign;
    }
    return y;
  };
  const auto factor_of = [&](int64_t s) TORCHDET_LANE_LAMBDA {
    return broadcast<P>(get_number(order.factor, s));
  };
  I reach = I(0);
  for (int64_t v = 0; v < packs; ++v) {
    const auto used = greater(I(Integer(Z.n - v * W)), lane_numbers<P>());
    const I row = order.row_exponent[v], column = order.column_exponent[v];
    const I larger = maximum(maximum(row, -row), maximum(column, -column));
    reach = maximum(reach, select(used, larger, I(0)));
  }
  if (any(greater(reach, I(Integer(kPairExponent<R> - 2))))) [[unlikely]] {
    return write_blocks(Z, order, out, [&](P x, int64_t s, int64_t v) TORCHDET_LANE_LAMBDA {
      const Integer e = reinterpret_cast<const Integer*>(order.row_exponent)[s];
      return conjugated(scale_pow2(x * factor_of(s), I(e) + order.column_exponent[v]));
    });
  }
  for (int64_t v = 0; v < packs; ++v) {
    order.factor[v] = order.factor[v] * exact_pow2<R>(order.row_exponent[v]);
    order.column_factor[v] = exact_pow2<R>(order.column_exponent[v]);
  }
  return write_blocks(Z, order, out, [&](P x, int64_t s, int64_t v) TORCHDET_LANE_LAMBDA {
    return conjugated(x * (factor_of(s) * order.column_factor[v]));
  });
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
