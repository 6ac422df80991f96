// The panels of a cluster's LU: factored by the warps of one block that have a row of them.
//
// Each thread holds a row of the panel in registers. The search for a pivot takes one barrier:
// every warp finds its own best row and publishes it, with its key and the reciprocal of its entry,
// before anyone knows which warp has the best of all; behind the barrier all warps compare the keys
// and read the winner's row.
#pragma once

#include "../place_key.h"
#include "matrix.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// Keys of a pivot search hold the thread that has the row (../place_key.h).
constexpr uint32_t kClusterPlaces = 1023;

template <typename V, int kClusterSize_>
class ClusterPanels : public ClusterMatrix<V, kClusterSize_> {
 public:
  using Base = ClusterMatrix<V, kClusterSize_>;
  using R = RealOf<V>;
  using I = IntegerOf<V>;
  using Base::Base, Base::kClusterSize, Base::kCount, Base::kRowWarps, Base::P, Base::multipliers;

  // Factors panel k, which this block owns: leaves its multipliers and the rows' order.
  TORCHDET_DEVICE void factor(int k) {
    const int left = n_ - k * P, warp = thread_index() / kWarpSize;
    const int active_warps = quotient_up(left, kWarpSize);
    if (warp < active_warps) {
      take_steps(k, left, active_warps);
    } else {
      for (int s = 0; s < minimum(P, left); ++s) {
        sync_block();
      }
    }
    sync_block();
  }

  // What panel k, just factored, is to the determinant: in the first warp.
  TORCHDET_DEVICE void multiply(int k) {
    const int lane = thread_index(), steps = minimum(P, n_ - k * P);
    if (lane >= kWarpSize) {
      return;
    }
    // A lane for each step. Mantissas are below 2 (2 sqrt(2) in modulus where complex), so 16 of
    // them need no care.
    const bool is_step = lane < steps;
    Scaled<V> product = is_step ? normalise(own_pivot_, I(0)) : scaled_one<V>();
    // A pivot row passes the rows before it that are still waiting.
    int is_odd = is_step ? own_place_ : 0;
    for (int s = 0; s < steps; ++s) {
      const int earlier = shuffle(own_place_, s);
      is_odd ^= is_step && s < lane && earlier < own_place_ ? 1 : 0;
    }
    is_odd &= 1;
    TORCHDET_UNROLL
    for (int mask = 1; mask < P; mask *= 2) {
      const Scaled<V> other = shuffle_xor(product, mask);
      const bool is_lower = (lane & mask) == 0;  // complex products in the same order everywhere
      product = {(is_lower ? product : other).mantissa * (is_lower ? other : product).mantissa,
                 product.exponent + other.exponent};
      is_odd ^= shuffle_xor(is_odd, mask);
    }
    product.mantissa = is_odd ? -product.mantissa : product.mantissa;
    determinant_ = determinant_ * normalise(product.mantissa, product.exponent);
  }

 protected:
  using Base::layout_, Base::n_, Base::stride_, Base::a_, Base::row_index_;
  Scaled<V> determinant_ = scaled_one<V>();  // of this block's panels

 private:
  // Pivots and steps: of step s in lane s of every warp that takes part.
  TORCHDET_DEVICE void take_steps(int k, int left, int active_warps) {
    const int t = thread_index(), lane = t % kWarpSize, warp = t / kWarpSize;
    const bool is_present = t < left;
    const int index = row_index_[k * P + (is_present ? t : 0)];
    V m[P];
    load(a_ + index * stride_ + k / kClusterSize * P, left, m);
    bool is_waiting = is_present;
    int place = t;  // in the list, from the panel's first row on
    for_steps<0, P, true>([&](auto step) {
      constexpr int s = decltype(step)::value;
      if (s < left) {
        V* const lines = Base::template at<V>(layout_.lines) + s % 2 * kRowWarps * P;
        int32_t* const keys = Base::template at<int32_t>(layout_.keys) + s % 2 * kRowWarps;
        PivotDivisor<V>* const pivots =
            Base::template at<PivotDivisor<V>>(layout_.pivots) + s % 2 * kRowWarps;
        const int32_t own = is_waiting ? place_key<kClusterPlaces>(pivot_size(m[s]), t) : kNoKey;
        Pivot<V, true> candidate(m[s]);
        const int32_t best_of_warp = reduce_maximum_in_warp(own);
        candidate.refine();
        if (is_waiting && own == best_of_warp) {
          store<s>(m, lines + warp * P);
          pivots[warp] = candidate;
        }
        if (lane == 0) {
          keys[warp] = best_of_warp;
        }
        sync_block();
        const int32_t best = reduce_maximum_in_warp(lane < active_warps ? keys[lane] : kNoKey);
        const int q = place_of_key<kClusterPlaces>(best);
        V u[P];
        load<s>(lines + q / kWarpSize * P, u);
        if (lane == s) {
          own_pivot_ = u[s];
          own_place_ = q;
        }
        // Rows that wait make room for those that are chosen from behind them.
        place = t == q ? s : is_waiting && t < q ? place + 1 : place;
        is_waiting = is_waiting && t != q;
        V l = pivots[q / kWarpSize].quotient(m[s]);
        if constexpr (kIsComplex<V>) {  // whose quotients of equal numbers need not be exactly 1
          l = select(m[s].re == u[s].re && m[s].im == u[s].im && pivot_size(u[s]) != R(0), one<V>(),
                     l);
        }
        m[s] = select(is_waiting, l, m[s]);
        l = select(is_waiting, l, zero<V>());
        TORCHDET_UNROLL
        for (int c = s + 1; c < P; ++c) {
          m[c] = fnma(l, u[c], m[c]);
        }
      }
    });
    if (is_present) {
      row_index_[k * P + place] = index;
      store<0>(m, multipliers(k) + index * P);
    }
  }

  // The words of a row of the panel, from that of column kFirst on.
  template <int kFirst = 0>
  TORCHDET_DEVICE static void load(const V* from, V (&x)[P]) {
    TORCHDET_UNROLL
    for (int w = kFirst / kCount; w < P / kCount; ++w) {
      const Chunk<V> chunk = Chunk<V>::load(from + w * kCount);
      TORCHDET_UNROLL
      for (int e = 0; e < kCount; ++e) {
        x[w * kCount + e] = chunk.x[e];
      }
    }
  }
  template <int kFirst>
  TORCHDET_DEVICE static void store(const V (&x)[P], V* to) {
    TORCHDET_UNROLL
    for (int w = kFirst / kCount; w < P / kCount; ++w) {
      Chunk<V> chunk;
      TORCHDET_UNROLL
      for (int e = 0; e < kCount; ++e) {
        chunk.x[e] = x[w * kCount + e];
      }
      chunk.store(to + w * kCount);
    }
  }
  // Only the words that the matrix has: of the last panel not all are there.
  TORCHDET_DEVICE static void load(const V* from, int left, V (&x)[P]) {
    TORCHDET_UNROLL
    for (int w = 0; w < P / kCount; ++w) {
      TORCHDET_UNROLL
      for (int e = 0; e < kCount; ++e) {
        x[w * kCount + e] = zero<V>();
      }
      if (w * kCount < left) {
        const Chunk<V> chunk = Chunk<V>::load(from + w * kCount);
        TORCHDET_UNROLL
        for (int e = 0; e < kCount; ++e) {
          x[w * kCount + e] = chunk.x[e];
        }
      }
    }
  }

  V own_pivot_ = zero<V>();
  int own_place_ = 0;
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
