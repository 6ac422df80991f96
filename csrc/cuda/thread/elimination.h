// Elimination in the registers of one thread, n >= 5: LU for determinants, Gauss-Jordan for
// cofactors. Rows are exchanged by selection.
//
// The pivot of a column is the entry that is largest beside z_i, the sum of the magnitudes of its
// row of A, rounded down to a power of two. So elimination is that of the rows a_i / z_i, with
// entries below 2 and multipliers of at most 1 (2 where complex, in pivot_size). With w_j = max_i
// |a_ij| / z_i, the size of column j, step k finds entries below z_i w_j 3^k.
//
// When the result can be trusted. In the frame of math/equilibrate.h entry a_ij is in units of
// 2^(r_i + c_j) >= z_i w_j / (16 n), since z_i <= 2 n 2^r_i and w_j <= 2^(c_j + 3). Rounding
// commutes with scaling by powers of two, so what is left to look at is underflow, which costs t,
// the smallest subnormal number. The rules are, with E the largest exponent of the format,
//     2^-kFar <= z_i,  S = sum z_i <= 2^kFar,  S <= 2^kNear min z_i,
//     w_j >= 2^(1-kNear) 3^(1-n),  w_n >= 2^(1-kNear),                                          (1)
//     kFar = 5 E / 16,  kNear = 3 E / 16.
// LU: an underflow in one of the n updates of a_ij is an error of t in it, and all of them are 16
// n^2 t / (z_i w_j) in the frame, below 2^-58 for float at n = 12. One of the multiplier l_ik is an
// error of t u_k in a_ik, or t z_k 3^k / z_i beside z_i w_k, which is less. Gauss-Jordan: numbers
// of E (below) are in units of z_i / z_k, and those of its last step in units of z_i w_n z_n / z_k,
// so that t costs 16 n t 2^(kFar + 2 kNear), below 2^-56 for float at n = 12. Lower orders and
// other formats have more room. The error unit (tests/units.py) is that of an error of n eps in the
// frame; and of n^2 eps^2 > 2^-39 in the product of two factors of a cofactor that are both 0.
//     w_j need not be looked at: the pivot of column j is below z_i w_j 3^j, so pivots of at least
// 2^(1-kNear) z_i prove (1) for their columns. The last one does not: it is 0, or what rounding has
// left of 0, where the matrix is singular, so w_n is formed from A.
//
// Overflow: pivots are below 2^(kFar + 1) 3^11 < 2^(E/2), as Pivot asks for. NaN and infinity in A
// make S so.
#pragma once

#include "algorithms.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// The rules (1).
template <typename V>
struct Trust {
  using R = RealOf<V>;
  static constexpr int kExponent = Format<ScalarOf<V>>::kMaxExponent;
  static constexpr int kFar = kExponent * 5 / 16, kNear = kExponent * 3 / 16;

  // sum: S; least: min z_i. No comparison holds for NaN.
  TORCHDET_DEVICE static bool in_rows(R sum, R least) {
    return sum <= exact_pow2<R>(kFar) && least >= exact_pow2<R>(-kFar) &&
           sum <= least * exact_pow2<R>(kNear);
  }
  // w_j, or a pivot beside z_i.
  TORCHDET_DEVICE static bool in_column(R w) { return w >= exact_pow2<R>(1 - kNear); }
};

// Whether (1) holds for a matrix in memory. Rows and columns that are zero count for nothing: their
// matrices have a determinant of exactly 0 in any case. This is for matrices with a pivot that is
// 0, or what rounding has left of 0, of whose columns the pivots say nothing.
template <int N, typename V>
TORCHDET_DEVICE bool is_central(const V* a) {
  using R = RealOf<V>;
  R z[N];
  TORCHDET_UNROLL
  for (int i = 0; i < N; ++i) {
    z[i] = 0;
  }
  TORCHDET_ROLL
  for (int j = 0; j < N; ++j) {
    TORCHDET_UNROLL
    for (int i = 0; i < N; ++i) {
      z[i] = z[i] + pivot_size(a[i * N + j]);
    }
  }
  R sum = 0, least = std::numeric_limits<R>::max();
  TORCHDET_UNROLL
  for (int i = 0; i < N; ++i) {
    sum = sum + z[i];
    least = z[i] == R(0) ? least : minimum(z[i], least);
    z[i] = weight_of<R>(bits_of(z[i]));
  }
  bool is_trusted = Trust<V>::in_rows(sum, least);
  TORCHDET_ROLL
  for (int j = 0; j < N; ++j) {
    R w = 0;
    TORCHDET_UNROLL
    for (int i = 0; i < N; ++i) {
      w = maximum(w, pivot_size(a[i * N + j]) * z[i]);
    }
    is_trusted = is_trusted && (w == R(0) || Trust<V>::in_column(w));
  }
  return is_trusted;
}

// A matrix, its pivots, and what they add up to.
template <typename V, int N>
class ThreadElimination {
 public:
  using R = RealOf<V>;

  // Overwrites a.
  TORCHDET_DEVICE explicit ThreadElimination(V* a) : a_(a) {
    R w = 0, sum = 0, least = std::numeric_limits<R>::max();
    TORCHDET_UNROLL
    for (int i = 0; i < N; ++i) {
      R z = pivot_size(a[i * N]);
      TORCHDET_UNROLL
      for (int j = 1; j < N; ++j) {
        z = z + pivot_size(a[i * N + j]);
      }
      sum = sum + z;
      least = minimum(z, least);
      weight_[i] = weight_of<R>(bits_of(z));
      w = maximum(w, pivot_size(a[i * N + N - 1]) * weight_[i]);
      order_ |= Order(i) << (kLabelBits * i);
    }
    is_trusted_ = Trust<V>::in_rows(sum, least) && Trust<V>::in_column(w);
  }

  // det A.
  TORCHDET_DEVICE Scaled<V> determinant() {
    for_steps<0, N, true>([&](auto step) {
      constexpr int k = decltype(step)::value;
      if constexpr (k < N - 1) {
        bring_up_pivot(k, k);
      }
      const Pivot<V> pivot(a_[k * N + k]);
      eliminate_below<N>(a_, k, pivot);
      multiply(pivot);
    });
    return product();
  }

  // Gauss-Jordan elimination, in place: E P A = D, with P the exchanges of rows, E a product of
  // eliminations, and D the diagonal of the pivots u_k. Step k adds multiples of row k to all
  // others, so that column k of P A keeps u_k alone, and
  //     C(A) P^T = det(A) A^-T P^T = (det(A) D^-1 E)^T.
  // It touches column k of E beside those of earlier steps, which takes the place of column k of P
  // A: 1 in row k, minus the multipliers in the others.
  //
  // The last pivot S enters by multiplication only: with P_n the product of the others and the sign
  // of the permutation, rows e_i of E before the last step, and b_i / S its multipliers,
  //     (C(A) P^T) column i = P_n / u_i (S e_i - b_i e_n),  column n = P_n e_n,             (2)
  // which is right at S = 0, too: a matrix of rank n - 1 takes the same path as a regular one.
  // Afterwards a has the rows S e_i - b_i e_n and e_n. Numbers that overflow leave an infinity or
  // NaN in their rows.
  TORCHDET_DEVICE void sweep() {
    for_steps<0, N - 1, true>([&](auto step) {
      constexpr int k = decltype(step)::value;
      bring_up_pivot(k, 0);
      const Pivot<V> pivot(a_[k * N + k]);
      multiply(pivot);
      inverse_[k] = pivot.quotient(one<V>());
      a_[k * N + k] = one<V>();
      TORCHDET_UNROLL
      for (int i = 0; i < N; ++i) {
        if (i != k) {
          const V l = pivot.quotient(a_[i * N + k]);
          TORCHDET_UNROLL
          for (int j = 0; j < N; ++j) {
            a_[i * N + j] = j == k ? -l : fnma(l, a_[k * N + j], a_[i * N + j]);
          }
        }
      }
    });
    V* const last = a_ + (N - 1) * N;
    last_ = last[N - 1];
    last[N - 1] = inverse_[N - 1] = one<V>();
    TORCHDET_UNROLL
    for (int i = 0; i < N - 1; ++i) {
      const V b = a_[i * N + N - 1];
      TORCHDET_UNROLL
      for (int j = 0; j < N - 1; ++j) {
        a_[i * N + j] = fnma(b, last[j], a_[i * N + j] * last_);
      }
      a_[i * N + N - 1] = -b;
    }
  }

  // After sweep(): P_n and S.
  TORCHDET_DEVICE Scaled<V> product() const {
    const V signed_mantissa = is_odd_ ? -mantissa_ : mantissa_;
    return normalise(select(is_singular_, zero<V>(), signed_mantissa), IntegerOf<V>(exponent_));
  }
  TORCHDET_DEVICE V last_pivot() const { return last_; }
  // 1 / u_i, and 1 for the last one.
  TORCHDET_DEVICE V inverse_pivot(int i) const { return inverse_[i]; }
  // The row of A at place k of P A.
  TORCHDET_DEVICE int row_at(int k) const {
    return static_cast<int>(order_ >> (kLabelBits * k)) & ((1 << kLabelBits) - 1);
  }

  TORCHDET_DEVICE bool is_trusted() const { return is_trusted_; }

 private:
  // Numbers of rows, in one register or two: an array of them would take N.
  static constexpr int kLabelBits = 4;
  using Order = std::conditional_t<kLabelBits * N <= 32, uint32_t, uint64_t>;

  // To row k, by an exchange of rows from column `first` on.
  TORCHDET_DEVICE void bring_up_pivot(int k, int first) {
    R best = pivot_size(a_[k * N + k]) * weight_[k];
    int place = k;
    TORCHDET_UNROLL
    for (int i = k + 1; i < N; ++i) {
      const R size = pivot_size(a_[i * N + k]) * weight_[i];
      const bool larger = size > best;
      best = select(larger, size, best);
      place = larger ? i : place;
    }
    is_trusted_ = is_trusted_ && Trust<V>::in_column(best);
    is_odd_ = is_odd_ != (place != k);
    TORCHDET_UNROLL
    for (int i = k + 1; i < N; ++i) {
      const bool chosen = place == i;
      const auto exchange = [&](auto& top, auto& other) {
        const auto old = top;
        top = select(chosen, other, old);
        other = select(chosen, old, other);
      };
      TORCHDET_UNROLL
      for (int j = 0; j < N; ++j) {
        if (j >= first) {
          exchange(a_[k * N + j], a_[i * N + j]);
        }
      }
      exchange(weight_[k], weight_[i]);
    }
    const int to = kLabelBits * k, from = kLabelBits * place;
    const Order difference = ((order_ >> to) ^ (order_ >> from)) & ((1 << kLabelBits) - 1);
    order_ ^= difference << to | difference << from;
  }

  // Mantissas are below 2 (2 sqrt(2) in modulus where complex) and at least 1, so N of them need no
  // care.
  TORCHDET_DEVICE void multiply(const Pivot<V>& pivot) {
    mantissa_ = mantissa_ * pivot.mantissa();
    exponent_ = exponent_ + pivot.exponent();
    is_singular_ = is_singular_ || pivot.is_zero;
  }

  V* const a_;
  R weight_[N];  // 1 / z_i
  V inverse_[N];
  V last_ = zero<V>();
  Order order_ = 0;
  bool is_trusted_, is_odd_ = false, is_singular_ = false;
  V mantissa_ = one<V>();
  int exponent_ = 0;
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
