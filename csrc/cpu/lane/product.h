// Products of tiles, one matrix per SIMD lane, for all orders: sums of kRows x kColumns entries in
// registers, and no loop that is unrolled for an order.
#pragma once

#include <algorithm>

#include "../simd/tile.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename V>
struct LaneProduct {
  static constexpr int kRows = 2, kColumns = kIsComplex<V> ? 2 : 4;

  // to = a b, or -a b: a has `rows` rows of n entries, b is n x n. kTransposed: to = a^T b, and a
  // is n x n.
  template <bool kNegative = false, bool kTransposed = false>
  [[gnu::noinline]] static void multiply(const V* a, int rows, const V* b, int n, V* to) {
    multiply_inline<kNegative, kTransposed>(a, rows, b, n, to);
  }
  // The same where a call would cost as much as the product.
  template <bool kNegative = false, bool kTransposed = false>
  TORCHDET_LANE static void multiply_inline(const V* a, int rows, const V* b, int n, V* to) {
    const int s = tile_stride(n);
    for (int i = 0; i < rows; i += kRows) {
      const int block_rows = std::min(kRows, rows - i);
      for (int j = 0; j < n; j += kColumns) {
        multiply_block<kRows, kColumns, kNegative, kTransposed>(
            block_rows, std::min(kColumns, n - j), a + i * (kTransposed ? 1 : s), b + j, n,
            to + i * s + j);
      }
    }
  }

 private:
  template <int NR, int NC, bool kNegative, bool kTransposed>
  TORCHDET_LANE static void multiply_block(int rows, int columns, const V* a, const V* b, int n,
                                           V* to) {
    if (NR > 1 && rows < NR) {
      multiply_block<std::max(NR - 1, 1), NC, kNegative, kTransposed>(rows, columns, a, b, n, to);
      return;
    }
    if (NC > 1 && columns < NC) {
      multiply_block<NR, std::max(NC - 1, 1), kNegative, kTransposed>(rows, columns, a, b, n, to);
      return;
    }
    const int s = tile_stride(n);
    V sum[NR][NC];
    for (auto& row : sum) {
      std::fill(row, row + NC, zero<V>());
    }
    for (int k = 0; k < n; ++k) {
      for (int i = 0; i < NR; ++i) {
        for (int j = 0; j < NC; ++j) {
          const V f = kTransposed ? a[k * s + i] : a[i * s + k], x = b[k * s + j];
          sum[i][j] = kNegative ? fnma(f, x, sum[i][j]) : fma(f, x, sum[i][j]);
        }
      }
    }
    for (int i = 0; i < NR; ++i) {
      std::copy(sum[i], sum[i] + NC, to + i * s);
    }
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
