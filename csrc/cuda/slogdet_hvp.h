// The second derivative of log|det|, -X (Z^T X) from conj(X) with X = A^-T, in the classes
// "thread", "warp" and "block". Every number of both products is one chain of multiply-adds in
// ascending order (products.h).
#pragma once

#include "products.h"
#include "thread/kernels.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// One matrix per thread.
template <typename V, int N>
struct ThreadSlogdetHvp : ThreadKernel<V, N> {
  TORCHDET_DEVICE static void run(const Problem& p) {
    ThreadMatrices<V, N> matrices(p);
    matrices.apply([&](int64_t b) {
      V x[N * N], z[N * N], h[N * N];
      matrices.read(p.A, b, x);
      matrices.read(p.other, b, z);
      TORCHDET_UNROLL
      for (int t = 0; t < N * N; ++t) {
        x[t] = conj(x[t]);
      }
      TORCHDET_UNROLL
      for (int j = 0; j < N; ++j) {
        V column[N];  // of Z^T X
        TORCHDET_UNROLL
        for (int i = 0; i < N; ++i) {
          column[i] = zero<V>();
          TORCHDET_UNROLL
          for (int k = 0; k < N; ++k) {
            column[i] = fma(z[k * N + i], x[k * N + j], column[i]);
          }
        }
        TORCHDET_UNROLL
        for (int i = 0; i < N; ++i) {
          V sum = zero<V>();
          TORCHDET_UNROLL
          for (int k = 0; k < N; ++k) {
            sum = fnma(x[i * N + k], column[k], sum);
          }
          h[i * N + j] = sum;
        }
      }
      matrices.put([&](int t) { return h[t]; }, [](int t) { return t; });
      matrices.write();
    });
  }
};

// One matrix per group of lanes, in shared memory (products.h). kMatrices: groups of a block.
template <typename V, typename Group, int kMatrices>
struct SharedSlogdetHvp {
  static constexpr Memory kMemory = Memory::kShared;
  static constexpr int kLanes = Group::kLanes, kThreads = kLanes * kMatrices;
  // As many as leave room for the tile and for its factors in registers.
  static constexpr int kThreadsPerSm = sizeof(V) == 4 ? 512 : sizeof(V) == 8 ? 384 : 256;
  static constexpr int kBlocksPerSm = kThreadsPerSm / kThreads;
  static constexpr int64_t kMatricesPerBlock = kMatrices;
  static_assert(kLanes <= kWarpSize ? kThreads % kWarpSize == 0 : kMatrices == 1);

  static size_t block_bytes(int64_t n) {
    return kMatrices * sizeof(V) * numbers_of_group(static_cast<int>(n));
  }

  TORCHDET_DEVICE static void run(const Problem& p) {
    const int index = thread_index() / kLanes;
    const int64_t own = block_index() * kMatrices + index;
    // A group without a matrix works on the last one once more, and does not write.
    const int64_t b = own < p.batch ? own : p.batch - 1;
    const int n = static_cast<int>(p.n), each = Group::numbers_of_matrix(n);
    V* const memory = shared_memory<V>() + index * numbers_of_group(n);
    const Group group(n, memory, memory + each, memory + 2 * each);
    const int stride = group.stride;
    group.read(p.A, b, [&](int i, int j, V x) { group.x[i * stride + j] = conj(x); });
    group.read(p.other, b, [&](int i, int j, V x) { group.z[j * stride + i] = x; });
    Group::sync();
    for (int word = 0; word < words_of<V>(n); word += Group::kStripWords) {
      typename Group::Tile tile;
      group.template multiply<false>(group.z, group.x, stride, word, word, tile);
      Group::sync();
      group.store(tile, word);
      Group::sync();
      group.template multiply<true>(group.x, group.strip, group.strip_stride, 0, word, tile);
      Group::sync();
      group.store(tile, word);
      Group::sync();
      if (own < p.batch) {
        write(group, static_cast<V*>(p.out) + b * n * n, word);
      }
    }
  }

 private:
  static constexpr int kCount = Group::kCount;

  // A word more makes the groups of a warp an odd number of words apart, for the sake of the banks.
  TORCHDET_ANYWHERE static int numbers_of_group(int n) {
    return 2 * Group::numbers_of_matrix(n) + Group::numbers_of_strip(n) + kCount;
  }

  // The strip's columns to the result.
  TORCHDET_DEVICE static void write(const Group& group, V* out, int first) {
    const V* const from = group.strip;
    const int n = group.n, stride = group.strip_stride;
    const int begin = first * kCount, width = minimum(n - begin, Group::kStripColumns);
    const bool wide = n % kCount == 0 && reinterpret_cast<uintptr_t>(out) % sizeof(Wide) == 0;
    if (wide) {
      group.for_places(
          n, width / kCount,
          [&](int i, int w) { return Chunk<V>::load(from + i * stride + w * kCount); },
          [&](int i, int w, const Chunk<V>& x) {
            x.store_elsewhere(out + int64_t(i) * n + begin + w * kCount);
          });
    } else {
      group.for_places(
          n, width, [&](int i, int j) { return from[i * stride + j]; },
          [&](int i, int j, V x) { out[int64_t(i) * n + begin + j] = x; });
    }
  }
};

// Of orders up to N: several matrices per warp where they are small.
template <typename V, int N>
using WarpSlogdetHvp =
    SharedSlogdetHvp<V, WarpProducts<V, N>,
                     128 / WarpProducts<V, N>::kLanes / (static_cast<int>(sizeof(V)) / 4)>;

// Of orders up to 32 kRows: a warp for 32 rows of a strip.
template <typename V, int kRows>
struct BlockSlogdetHvp : SharedSlogdetHvp<V, ProductGroup<V, 8, 4 * kRows, 8>, 1> {
  static constexpr int kMostRows = sizeof(V) == 4 ? 6 : 4;
  static constexpr int kNextRows = kRows + 2;
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
