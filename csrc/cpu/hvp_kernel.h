// Hessian-vector product of the lane class: one matrix and one direction per SIMD lane.
//
// Complete pivoting permutes rows and columns differently in every lane. The factors stay in
// pivoted order; only the direction is gathered, and the result scattered, entry by entry.
#pragma once

#include "../math/hvp.h"
#include "lane_kernels.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename V>
struct HvpKernel {
  using T = ScalarOf<V>;
  using I = IntegerOf<V>;
  using Io = Tile<V>;
  static constexpr int W = Io::W, kParts = Io::kParts;

  static void det_hvp(const Problem& p, int64_t begin, int64_t end) {
    const int n = static_cast<int>(p.n);
    const int s = tile_stride(n);
    V* a = static_cast<V*>(thread_scratch(sizeof(V) * 3 * n * s));
    V* w = a + n * s;
    V* k = w + n * s;
    I row_index[kMaxLaneOrder], row_exponent[kMaxLaneOrder], column_index[kMaxLaneOrder],
        column_exponent[kMaxLaneOrder];
    for (int64_t first = begin; first < end; first += W) {
      const int lanes = static_cast<int>(std::min<int64_t>(W, end - first));
      Io::read(p.A, first, lanes, n, a);
      const Equilibration<V> eq = equilibrate<0>(a, n, row_exponent, column_exponent);
      const RealOf<V> sign =
          factor_ldu(a, n, {row_index, row_exponent}, {column_index, column_exponent});
      gather(p.other, first, lanes, n, row_index, column_index, w);
      // Z' = 2^-(r + c) Z 2^-z with entries of at most 2.
      I z = I(kZeroExponent);
      for (int i = 0; i < n; ++i) {
        for (int j = 0; j < n; ++j) {
          z = maximum(z, entry_exponent(w[i * s + j]) + row_exponent[i] + column_exponent[j]);
        }
      }
      z = select(greater(I(kZeroExponentBound), z), I(0), z);
      shift(column_exponent, n, -z);
      PairScaling<V>(row_exponent, column_exponent, n)
          .for_entries(n, [&](int i, int j, auto scale) { w[i * s + j] = scale(w[i * s + j]); });
      const I exponent = cofactor_derivative(a, n, w, k) + eq.total;
      shift(column_exponent, n, exponent + z + z);
      PairScaling<V>(row_exponent, column_exponent, n)
          .for_entries(n, [&](int i, int j, auto scale) {
            k[i * s + j] = add_poison(scale(k[i * s + j] * sign), eq.poison);
          });
      scatter(p.out, first, lanes, n, row_index, column_index, k);
    }
  }

 private:
  static void shift(I* exponents, int n, I by) {
    for (int j = 0; j < n; ++j) {
      exponents[j] = exponents[j] + by;
    }
  }

  static void gather(const BatchView& view, int64_t first, int lanes, int n, const I* rows,
                     const I* columns, V* tile) {
    for (int lane = 0; lane < W; ++lane) {
      const T* from = static_cast<const T*>(view.data) +
                      view.offset(first + std::min(lane, lanes - 1)) * kParts;
      for (int i = 0; i < n; ++i) {
        for (int j = 0; j < n; ++j) {
          const int64_t offset =
              rows[i][lane] * view.row_stride + columns[j][lane] * view.column_stride;
          T* parts = reinterpret_cast<T*>(tile + i * tile_stride(n) + j) + lane;
          for (int part = 0; part < kParts; ++part) {
            parts[part * W] = from[offset * kParts + part];
          }
        }
      }
    }
  }

  static void scatter(void* out, int64_t first, int lanes, int n, const I* rows, const I* columns,
                      const V* tile) {
    for (int lane = 0; lane < lanes; ++lane) {
      T* to = static_cast<T*>(out) + (first + lane) * n * n * kParts;
      for (int i = 0; i < n; ++i) {
        for (int j = 0; j < n; ++j) {
          const T* parts = reinterpret_cast<const T*>(tile + i * tile_stride(n) + j) + lane;
          for (int part = 0; part < kParts; ++part) {
            to[(rows[i][lane] * n + columns[j][lane]) * kParts + part] = parts[part * W];
          }
        }
      }
    }
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
