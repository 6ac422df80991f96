// Kernels of the class "rows": a matrix read into packs, eliminated (sweep.h), and its result
// written.
#pragma once

#include "blocked_kernels.h"
#include "sweep.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// Lane r receives the largest lane of x[r].
template <int S, typename T, int W, int... L>
TORCHDET_LANE Vec<T, W> larger_halves(Vec<T, W> a, Vec<T, W> b, std::integer_sequence<int, L...>) {
  // Lanes with bit S keep those of b, the others those of a, each with its partner's maximum.
  const Vec<T, W> own(__builtin_shufflevector(a.raw, b.raw, ((L & S) == 0 ? L : W + L)...));
  const Vec<T, W> partner(
      __builtin_shufflevector(a.raw, b.raw, ((L & S) == 0 ? L + S : W + L - S)...));
  return maximum(own, partner);
}
template <int S, typename T, int W>
TORCHDET_LANE Vec<T, W> largest_of_each(Vec<T, W> (&x)[W]) {
  if constexpr (S == 0) {
    return x[0];
  } else {
    for (int r = 0; r < S; ++r) {
      x[r] = larger_halves<S>(x[r], x[r + S], std::make_integer_sequence<int, W>());
    }
    return largest_of_each<S / 2>(x);
  }
}
template <typename T, int W>
TORCHDET_LANE Vec<T, W> largest_of_each(Vec<T, W> (&x)[W]) {
  return largest_of_each<W / 2>(x);
}

// The first count <= W numbers of a row, zeros after them.
template <typename R>
TORCHDET_LANE R load_numbers(const ScalarOf<R>* from, int count, const R*) {
  constexpr int W = LaneTraits<R>::kWidth;
  using T = ScalarOf<R>;
  return count >= W ? load<T, W>(from) : load_first<T, W>(from, count);
}
template <typename T, int W, int... L>
TORCHDET_LANE Complex<Vec<T, W>> split_parts(Vec<T, W> a, Vec<T, W> b,
                                             std::integer_sequence<int, L...>) {
  return {Vec<T, W>(__builtin_shufflevector(a.raw, b.raw, (2 * L)...)),
          Vec<T, W>(__builtin_shufflevector(a.raw, b.raw, (2 * L + 1)...))};
}
template <typename R>
TORCHDET_LANE Complex<R> load_numbers(const ScalarOf<R>* from, int count, const Complex<R>*) {
  constexpr int W = LaneTraits<R>::kWidth;
  const R* real = nullptr;
  const R a = load_numbers(from, std::min(2 * count, W), real);
  const R b = 2 * count > W ? load_numbers(from + W, 2 * count - W, real) : R(0);
  return split_parts(a, b, std::make_integer_sequence<int, W>());
}
template <typename T, int W>
TORCHDET_LANE void store_numbers(T* to, Vec<T, W> x, int count) {
  if (count >= W) {
    store(to, x);
  } else {
    store_first(to, x, count);
  }
}
template <typename T, int W, int... L>
TORCHDET_LANE void store_numbers(T* to, Complex<Vec<T, W>> x, int count,
                                 std::integer_sequence<int, L...>) {
  const Vec<T, W> a(
      __builtin_shufflevector(x.re.raw, x.im.raw, (L % 2 == 0 ? L / 2 : W + L / 2)...));
  const Vec<T, W> b(__builtin_shufflevector(x.re.raw, x.im.raw,
                                            (L % 2 == 0 ? W / 2 + L / 2 : W + W / 2 + L / 2)...));
  store_numbers(to, a, std::min(2 * count, W));
  if (2 * count > W) {
    store_numbers(to + W, b, 2 * count - W);
  }
}
template <typename T, int W>
TORCHDET_LANE void store_numbers(T* to, Complex<Vec<T, W>> x, int count) {
  store_numbers(to, x, count, std::make_integer_sequence<int, W>());
}

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

template <typename P, int kPacks, int kGroup>
struct SweepKernel {
  using S = Sweep<P, kPacks, kGroup>;
  using T = typename S::T;
  using R = typename S::R;
  using I = typename S::I;
  using Number = typename S::Number;
  using Integer = typename S::Integer;
  using Blocked = BlockedKernels<P>;
  static constexpr int W = S::W, kParts = S::kParts;

  // kDet and kSlogdet.
  static void determinants(const Problem& p, int64_t begin, int64_t end) {
    S sweep(static_cast<int>(p.n), storage(p.n, 0));
    for (int64_t first = begin; first < end; first += kGroup) {
      read(p.A, first, end, sweep);
      sweep.template run<false>();
      for (int m = 0; m < kGroup && first + m < end; ++m) {
        Scaled<Number> d = sweep.product(m, true);
        d.mantissa = add_poison(d.mantissa, poison(sweep.facts[m]));
        d.exponent += sweep.facts[m].total;
        Blocked::write_determinant(p, first + m, d);
      }
    }
  }

  // kCofactor: C(A). kDetBackward: grad conj(C(A)). kSlogdetBackward: grad conj(A^-T), with A^-T =
  // C(A) / det(A).
  static void cofactor_matrices(const Problem& p, int64_t begin, int64_t end) {
    S sweep(static_cast<int>(p.n), storage(p.n, Blocked::space_bytes(p.n)));
    for (int64_t first = begin; first < end; first += kGroup) {
      read(p.A, first, end, sweep);
      sweep.template run<true>();
      for (int m = 0; m < kGroup && first + m < end; ++m) {
        const auto& f = sweep.facts[m];
        if (!f.finite || f.no_cofactors) {
          fill(p, first + m, f);
        } else if (!write(p, first + m, sweep, m)) {
          Blocked::rank_revealing_cofactors(p, first + m);
        }
      }
    }
  }

 private:
  static P* storage(int64_t n, size_t least) {
    const size_t bytes = sizeof(P) * kGroup * n * RowMatrix<P>::packs_for(n);
    return static_cast<P*>(thread_scratch(std::max(bytes, least)));
  }

  // All cofactors are zero, or NaN where the matrix has a NaN or an infinity; A^-T does not exist.
  [[gnu::noinline]] static void fill(const Problem& p, int64_t b, const typename S::Facts& f) {
    const bool inverse = p.op == Op::kSlogdetBackward;
    const Number factor = Blocked::gradient_factor(p, b).mantissa;
    const T nan = std::numeric_limits<T>::quiet_NaN();
    const Number x = add_poison(factor * T(0), f.finite && !inverse ? T(-0.0) : nan);
    Number* out = static_cast<Number*>(p.out) + b * p.n * p.n;
    for (int64_t t = 0; t < p.n * p.n; ++t) {
      out[t] = x;
    }
  }

  static T poison(const typename S::Facts& f) {
    return f.finite ? T(-0.0) : std::numeric_limits<T>::quiet_NaN();
  }

  // Reads matrices first .. of the batch, the last one again where the batch ends, equilibrated.
  TORCHDET_LANE static void read(const BatchView& view, int64_t first, int64_t end, S& sweep) {
    for (int m = 0; m < kGroup; ++m) {
      const Number* from = static_cast<const Number*>(view.data) +
                           view.offset(std::min<int64_t>(first + m, end - 1));
      if (view.column_stride == 1) {
        read_rows(from, view.row_stride, sweep, m);
      } else if (view.row_stride == 1) {
        read_columns(from, view.column_stride, sweep, m);
      } else {
        read_strided(from, view.row_stride, view.column_stride, sweep, m);
      }
      equilibrate(sweep, m);
    }
  }
  TORCHDET_LANE static void read_rows(const Number* from, int64_t stride, S& sweep, int m) {
    for (int i = 0; i < sweep.n; ++i) {
      const T* row = reinterpret_cast<const T*>(from + i * stride);
      for (int v = 0; v < sweep.packs(); ++v) {
        sweep.row(i, m)[v] =
            load_numbers(row + v * W * kParts, sweep.n - v * W, static_cast<const P*>(nullptr));
      }
    }
  }
  [[gnu::noinline]] static void read_columns(const Number* from, int64_t stride, S& sweep, int m) {
    const int n = sweep.n;
    for (int i = 0; i < n; i += W) {
      for (int v = 0; v < sweep.packs(); ++v) {
        P x[W];
        for (int r = 0; r < W; ++r) {
          const T* column = reinterpret_cast<const T*>(from + (v * W + r) * stride + i);
          x[r] = v * W + r < n ? load_numbers(column, n - i, static_cast<const P*>(nullptr))
                               : zero<P>();
        }
        transpose(x);
        for (int r = 0; r < W; ++r) {
          if (i + r < n) {
            sweep.row(i + r, m)[v] = x[r];
          }
        }
      }
    }
  }
  [[gnu::noinline]] static void read_strided(const Number* from, int64_t row_stride,
                                             int64_t column_stride, S& sweep, int m) {
    const RowMatrix<P> A = sweep.matrix(m);
    for (int i = 0; i < sweep.n; ++i) {
      for (int v = 0; v < sweep.packs(); ++v) {
        A.row(i)[v] = zero<P>();
      }
      for (int j = 0; j < sweep.n; ++j) {
        A.set(i, j, from[i * row_stride + j * column_stride]);
      }
    }
  }

  // math/equilibrate.h for one matrix.
  TORCHDET_LANE static void equilibrate(S& sweep, int m) {
    auto& f = sweep.facts[m];
    const int n = sweep.n;
    using F = Format<T>;
    const I high = pattern_of_pow2<I, F>(kCentral), low = pattern_of_pow2<I, F>(-kCentral);
    I column[S::kMaxPacks], least = high;
    for (int v = 0; v < sweep.packs(); ++v) {
      column[v] = I(0);
    }
    for (int b = 0; b * W < n; ++b) {
      I row[W];
      for (int r = 0; r < W; ++r) {
        row[r] = high;
        const int i = b * W + r;
        if (i < n) {
          row[r] = I(0);
          for (int v = 0; v < sweep.packs(); ++v) {
            const I size = component_bits(sweep.row(i, m)[v]);
            row[r] = maximum(row[r], size);
            column[v] = maximum(column[v], size);
          }
        }
      }
      least = minimum(least, largest_of_each(row));
    }
    I largest = I(0);
    for (int v = 0; v < sweep.packs(); ++v) {
      largest = maximum(largest, column[v]);
      const auto used = greater(I(Integer(n - v * W)), lane_numbers<P>());
      least = minimum(least, select(used, column[v], high));
    }
    largest = fold_lanes(largest, [](I a, I b) { return maximum(a, b); });
    const I bound = maximum(largest - (I(Integer(kBalance<0>)) << F::kFractionBits), low);
    f.finite = true;
    f.total = 0;
    for (int v = 0; v < sweep.packs(); ++v) {
      f.row_exponent[v] = f.column_exponent[v] = I(0);
    }
    if (any(mask_or(greater(bound, least), greater(largest, high)))) [[unlikely]] {
      equilibrate_unbalanced(sweep, m);
    }
  }
  [[gnu::noinline]] static void equilibrate_unbalanced(S& sweep, int m) {
    auto& f = sweep.facts[m];
    Pivots<P> pivots;
    pivots.row_exponent = reinterpret_cast<Integer*>(f.row_exponent);
    pivots.column_exponent = reinterpret_cast<Integer*>(f.column_exponent);
    equilibrate_rows(sweep.matrix(m), pivots);
    f.total = pivots.total;
    f.finite = pivots.finite;
  }

  // Writes the result of matrix b from (1) and (2); false where an entry of Z left the range.
  TORCHDET_LANE static bool write(const Problem& p, int64_t b, const S& sweep, int m) {
    const auto& f = sweep.facts[m];
    const int n = sweep.n, packs = sweep.packs();
    Scaled<Number> factor = Blocked::gradient_factor(p, b);
    if (p.op == Op::kSlogdetBackward) {
      const Scaled<Number> S = normalise(sweep.last_pivot(m), Integer(0));
      factor.mantissa = factor.mantissa * reciprocal(S.mantissa);
      factor.exponent -= S.exponent;
    } else {
      const Scaled<Number> d = sweep.product(m, false);
      factor.mantissa = factor.mantissa * d.mantissa;
      factor.exponent += d.exponent + f.total;
    }
    Number* out = static_cast<Number*>(p.out) + b * n * n;
    // Row row[s] of the result is column p_s of Z times -1 / d_s, or -1 for the last s.
    P row_factor[S::kMaxPacks];
    I row_exponent[S::kMaxPacks], reach = I(0);
    for (int v = 0; v < packs; ++v) {
      const auto last = mask_of_bits((uint64_t(1) << (n - 1)) >> (v * W), I());
      const Scaled<P> d = normalise(select(last, one<P>(), f.pivot[v]), I(0));
      row_factor[v] = -(broadcast<P>(factor.mantissa) * reciprocal(d.mantissa));
      row_exponent[v] = I(factor.exponent) + f.row_exponent[v] - d.exponent;
      const auto used = greater(I(Integer(n - v * W)), lane_numbers<P>());
      reach = maximum(reach, select(used, maximum(row_exponent[v], -row_exponent[v]), I(0)));
      reach = maximum(reach, maximum(f.column_exponent[v], -f.column_exponent[v]));
    }
    const R imaginary_sign = R(p.op == Op::kCofactor ? T(1) : T(-1));
    const auto conjugated = [&](P y) {
      if constexpr (kIsComplex<P>) {
        y.im = y.im * imaginary_sign;
      }
      return y;
    };
    if (any(greater(reach, I(Integer(kPairExponent<R> - 2))))) [[unlikely]] {
      return write_rows(sweep, m, out, [&](P x, int s, int v) {
        const Integer e = reinterpret_cast<const Integer*>(row_exponent)[s];
        return conjugated(scale_pow2(x * S::broadcast_at(row_factor, S::offset_of(s)),
                                     I(e) + f.column_exponent[v]));
      });
    }
    R column_factor[S::kMaxPacks];
    for (int v = 0; v < packs; ++v) {
      row_factor[v] = row_factor[v] * exact_pow2<R>(row_exponent[v]);
      column_factor[v] = exact_pow2<R>(f.column_exponent[v]);
    }
    return write_rows(sweep, m, out, [&](P x, int s, int v) {
      return conjugated(x * (S::broadcast_at(row_factor, S::offset_of(s)) * column_factor[v]));
    });
  }

  // Row row[s] of out receives finish(entries p_s of Z, s, pack), by blocks of W x W.
  template <typename Finish>
  TORCHDET_LANE static bool write_rows(const S& sweep, int m, Number* out, Finish finish) {
    const auto& f = sweep.facts[m];
    const int n = sweep.n;
    int32_t step_of[S::kMaxOrder];
    for (int k = 0; k < n; ++k) {
      step_of[f.lane[k]] = k;
    }
    R check = R(T(0));
    for (int q = 0; q < n; q += W) {             // columns of Z, rows of the result
      for (int v = 0; v < sweep.packs(); ++v) {  // rows of Z by their p_k, columns of the result
        const int count = std::min(n - v * W, W);
        P x[W];
        for (int r = 0; r < W; ++r) {
          x[r] = r < count ? sweep.row(step_of[v * W + r], m)[q / W] : zero<P>();
        }
        transpose(x);
        for (int r = 0; r < W; ++r) {
          if (q + r < n) {
            const int s = step_of[q + r];
            check = fma(component_sum(x[r]), R(T(0)), check);  // NaN as soon as one is not finite
            store_numbers(reinterpret_cast<T*>(out + f.row[s] * n + v * W), finish(x[r], s, v),
                          count);
          }
        }
      }
    }
    return all_equal(bits_of(abs(check)), I(0));
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
