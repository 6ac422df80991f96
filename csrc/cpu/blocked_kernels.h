// Kernels of the class "blocked": blocked factorisation of one matrix per thread.
//
// det and slogdet: LU with partial pivoting. Cofactors: C(B) = det(B) B^-T from that same LU, which
// fails only at exactly zero pivots and where an inverse leaves the range of the format; such
// matrices go to the rank-revealing LDU, C(B) = s G^T diag(a) F^T, a_i = prod_{k != i} d_k.
// Hessian-vector products always take LDU (math/hvp.h has the formulas).
#pragma once

#include "../math/hvp.h"
#include "../math/logarithm.h"
#include "row_factor.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// The thread's scratch space, cut into pieces.
class Arena {
 public:
  explicit Arena(size_t bytes) : next_(static_cast<char*>(thread_scratch(bytes))) {}
  template <typename X>
  X* take(int64_t count) {
    X* piece = reinterpret_cast<X*>(next_);
    next_ += bytes_for<X>(count);
    return piece;
  }
  template <typename X>
  static size_t bytes_for(int64_t count) {
    return (sizeof(X) * static_cast<size_t>(count) + 63) / 64 * 64;
  }

 private:
  char* next_;
};

template <typename P>
struct BlockedKernels {
  using T = ScalarOf<P>;
  using Number = NumberOf<P>;
  using M = RowMatrix<P>;
  using Integer = typename Format<T>::Integer;
  static constexpr int W = M::W, kParts = M::kParts;

  // Work space for one matrix at a time: three matrices and the vectors that go with them.
  struct Space {
    Arena arena;
    M A, X, K;
    Pivots<P> pivots;
    Number *x, *y;
    T* row_largest;
    explicit Space(int64_t n)
        : arena(space_bytes(n)), A(take_matrix(n), n), X(take_matrix(n), n), K(take_matrix(n), n) {
      pivots.row_index = arena.template take<int64_t>(n);
      pivots.column_index = arena.template take<int64_t>(n);
      pivots.row_exponent = arena.template take<Integer>(n);
      pivots.column_exponent = arena.template take<Integer>(n);
      x = arena.template take<Number>(n);
      y = arena.template take<Number>(n);
      row_largest = arena.template take<T>(n);
    }
    P* take_matrix(int64_t n) { return arena.template take<P>(n * M::packs_for(n)); }
  };

  static size_t space_bytes(int64_t n) {
    return 3 * Arena::bytes_for<P>(n * M::packs_for(n)) + 2 * Arena::bytes_for<int64_t>(n) +
           2 * Arena::bytes_for<Integer>(n) + 2 * Arena::bytes_for<Number>(n) +
           Arena::bytes_for<T>(n);
  }

  // d as det, or as sign and logarithm.
  static void write_determinant(const Problem& p, int64_t b, Scaled<Number> d) {
    Number& out = static_cast<Number*>(p.out)[b];
    if (p.op == Op::kDet) {
      out = scale_pow2(d.mantissa, d.exponent);
    } else {
      const SignAndLog<Number> result = sign_and_log(d);
      out = result.sign;
      static_cast<T*>(p.logabsdet)[b] = result.log;
    }
  }

  static void determinants(const Problem& p, int64_t begin, int64_t end) {
    Space s(p.n);
    for (int64_t b = begin; b < end; ++b) {
      read(p.A, b, s.A);
      equilibrate_rows(s.A, s.pivots);
      factor_lu_rows(s.A, s.pivots);
      Scaled<Number> d = diagonal(s.A, s.pivots);
      d.mantissa = add_poison(d.mantissa, poison(s.pivots));
      d.exponent += s.pivots.total;
      write_determinant(p, b, d);
    }
  }

  static void cofactor_matrices(const Problem& p, int64_t begin, int64_t end) {
    Space s(p.n);
    for (int64_t b = begin; b < end; ++b) {
      read(p.A, b, s.A);
      equilibrate_rows(s.A, s.pivots);
      factor_lu_rows(s.A, s.pivots);
      if (!inverse_transpose(s.A, s.X)) {
        rank_revealing_cofactors(p, b, s);
        continue;
      }
      Scaled<Number> factor = gradient_factor(p, b);
      if (p.op != Op::kSlogdetBackward) {
        const Scaled<Number> d = diagonal(s.A, s.pivots);
        factor.mantissa = factor.mantissa * d.mantissa;
        factor.exponent += d.exponent + s.pivots.total;
      }
      write(s.X, s.pivots, factor, false, p.op != Op::kCofactor, output(p, b));
    }
  }

  // The same for one matrix of any kind, by LDU.
  static void rank_revealing_cofactors(const Problem& p, int64_t b) {
    Space s(p.n);
    rank_revealing_cofactors(p, b, s);
  }

  // conj(grad), or 1: what multiplies the whole result, since grad conj(C) = conj(conj(grad) C).
  static Scaled<Number> gradient_factor(const Problem& p, int64_t b) {
    if (p.op == Op::kCofactor) {
      return {one<Number>(), Integer(0)};
    }
    const Number grad = static_cast<const Number*>(p.other.data)[p.other.offset(b)];
    return normalise(conj(grad), Integer(0));
  }

  static void det_hvp(const Problem& p, int64_t begin, int64_t end) {
    Space s(p.n);
    const int64_t n = p.n;
    for (int64_t b = begin; b < end; ++b) {
      read(p.A, b, s.A);
      equilibrate_rows(s.A, s.pivots);
      factor_ldu_rows(s.A, s.pivots, s.row_largest);
      const Integer z = read_direction(p.other, b, s);
      // W = L^-1 (P Z Q) U^-1 as its transpose, which is how (1) reads it: W^T = U^-T (L^-1 P Z
      // Q)^T.
      solve_triangular<true, false, true>(s.A, s.X);
      transpose(s.X);
      solve_triangular<true, true, true>(s.A, s.X);
      const ExclusivePairProducts<Number> rho([&](int64_t i) { return s.A.get(i, i); }, n, s.x,
                                              s.y);
      for (int64_t i = 0; i < n; ++i) {
        Number sum = zero<Number>();
        for (int64_t j = 0; j < n; ++j) {
          if (j != i) {
            const Number product = rho(i, j);
            s.K.set(i, j, -(product * s.X.get(i, j)));
            sum = fma(product, s.X.get(j, j), sum);
          }
        }
        s.K.set(i, i, sum);
      }
      carry_back(s.A, s.K);
      Scaled<Number> factor = rho.common;
      factor.mantissa = factor.mantissa * s.pivots.sign;
      factor.exponent += z + s.pivots.total;
      write(s.K, s.pivots, factor, true, false, output(p, b));
    }
  }

 private:
  static Number* output(const Problem& p, int64_t b) {
    return static_cast<Number*>(p.out) + b * p.n * p.n;
  }

  static void rank_revealing_cofactors(const Problem& p, int64_t b, Space& s) {
    read(p.A, b, s.A);
    equilibrate_rows(s.A, s.pivots);
    factor_ldu_rows(s.A, s.pivots, s.row_largest);
    const Scaled<Number> d = diagonal(s.A, s.pivots);
    s.K.clear();
    const Integer common = exclusive_products(s.A, s.K);
    carry_back(s.A, s.K);
    Scaled<Number> factor = gradient_factor(p, b);
    factor.mantissa = factor.mantissa * s.pivots.sign;
    factor.exponent += common + s.pivots.total;
    if (p.op == Op::kSlogdetBackward) {
      factor.mantissa = factor.mantissa * reciprocal(d.mantissa);
      factor.exponent -= d.exponent + s.pivots.total;
    }
    write(s.K, s.pivots, factor, true, p.op != Op::kCofactor, output(p, b));
  }

  static T poison(const Pivots<P>& pivots) {
    return pivots.finite ? T(-0.0) : std::numeric_limits<T>::quiet_NaN();
  }

  static void read(const BatchView& view, int64_t b, const M& A) {
    const Number* from = static_cast<const Number*>(view.data) + view.offset(b);
    A.clear();
    for (int64_t i = 0; i < A.n; ++i) {
      if (!kIsComplex<P> && view.column_stride == 1) {
        std::memcpy(static_cast<void*>(A.row(i)), from + i * view.row_stride, sizeof(Number) * A.n);
        continue;
      }
      for (int64_t j = 0; j < A.n; ++j) {
        A.set(i, j, from[i * view.row_stride + j * view.column_stride]);
      }
    }
  }

  static Scaled<Number> diagonal(const M& A, const Pivots<P>& pivots) {
    Scaled<Number> product = scaled_one<Number>();
    for (int64_t k = 0; k < A.n; ++k) {
      product = product * A.get(k, k);
    }
    product.mantissa = product.mantissa * pivots.sign;
    return product;
  }

  // X = L^-T U^-T, so that B^-T = P^T X; false where a pivot is zero or an entry leaves the range.
  static bool inverse_transpose(const M& A, const M& X) {
    for (int64_t k = 0; k < A.n; ++k) {
      if (pivot_size(A.get(k, k)) == 0) {
        return false;
      }
    }
    X.clear();
    for (int64_t k = 0; k < A.n; ++k) {
      X.set(k, k, one<Number>());
    }
    solve_triangular<true, true, false, true>(A, X);
    solve_triangular<false, true, true>(A, X);
    RealOf<P> check = RealOf<P>(T(0));
    for (int64_t p = 0; p < A.n * A.packs; ++p) {
      check = fma(component_sum(X.data[p]), RealOf<P>(T(0)),
                  check);  // NaN as soon as one entry is not finite
    }
    return all_equal(bits_of(abs(check)), IntegerOf<P>(0));
  }

  // K = diag(a) 2^-e with a_i = prod_{k != i} d_k = m d_p / d_i, p the smallest pivot; returns e.
  static Integer exclusive_products(const M& A, const M& K) {
    int64_t smallest = 0;
    for (int64_t k = 1; k < A.n; ++k) {
      smallest = pivot_size(A.get(k, k)) < pivot_size(A.get(smallest, smallest)) ? k : smallest;
    }
    Scaled<Number> m = scaled_one<Number>();
    for (int64_t k = 0; k < A.n; ++k) {
      if (k != smallest) {
        m = m * A.get(k, k);
        K.set(k, k, PivotQuotient<Number>(A.get(k, k))(A.get(smallest, smallest)));
      }
    }
    K.set(smallest, smallest, one<Number>());
    for (int64_t k = 0; k < A.n; ++k) {
      K.set(k, k, K.get(k, k) * m.mantissa);
    }
    return m.exponent;
  }

  // (L^-T K U^-T)^T = U^-1 (L^-T K)^T: from the frame of D back to that of P B Q, transposed.
  static void carry_back(const M& A, const M& K) {
    solve_triangular<false, true, true>(A, K);
    transpose(K);
    solve_triangular<false, false, true>(A, K);
  }

  // X = 2^-z P Z' Q with Z' = 2^-(r + c) Z and entries of at most 2; returns z.
  static Integer read_direction(const BatchView& view, int64_t b, Space& s) {
    const Number* from = static_cast<const Number*>(view.data) + view.offset(b);
    const int64_t n = s.A.n;
    Integer z = kZeroExponent;
    s.X.clear();
    for (int pass = 0; pass < 2; ++pass) {
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          const Number x = from[s.pivots.row_index[i] * view.row_stride +
                                s.pivots.column_index[j] * view.column_stride];
          const Integer e = s.pivots.row_exponent[i] + s.pivots.column_exponent[j];
          if (pass == 0) {
            z = maximum(z, Integer(entry_exponent(x) + e));
          } else {
            s.X.set(i, j, scale_pow2(x, e - z));
          }
        }
      }
      z = z < kZeroExponentBound ? Integer(0) : z;
    }
    return z;
  }

  // out = factor X with rows and columns back in their places and the equilibration undone. X comes
  // transposed from the complete-pivoting path, where columns were permuted too.
  static void write(const M& X, const Pivots<P>& pivots, Scaled<Number> factor, bool transposed,
                    bool conjugate, Number* out) {
    const int64_t n = X.n;
    const T nan = poison(pivots);
    for (int64_t i = 0; i < n; ++i) {
      Number* row = out + pivots.row_index[i] * n;
      for (int64_t j = 0; j < n; ++j) {
        const Number x = (transposed ? X.get(j, i) : X.get(i, j)) * factor.mantissa;
        const Integer e = factor.exponent + pivots.row_exponent[i] + pivots.column_exponent[j];
        const Number scaled = add_poison(scale_pow2(x, e), nan);
        row[transposed ? pivots.column_index[j] : j] = conjugate ? conj(scaled) : scaled;
      }
    }
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
