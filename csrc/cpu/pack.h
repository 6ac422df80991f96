// Between memory, where a matrix is contiguous (or strided), and a tile, where entry (i, j) of W
// matrices is one pack.
//
// Matrices are read along their unit-stride direction in runs of W numbers, W matrices at a time,
// and transposed in registers. No byte outside a matrix is touched.
#pragma once

#include <algorithm>
#include <utility>

#include "kernels.h"
#include "vec.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// Butterfly step of the W x W transposition: exchanges the lanes with bit S set of a with those
// without of b.
template <int S, typename T, int W, int... L>
TORCHDET_LANE void exchange_lanes(Vec<T, W>& a, Vec<T, W>& b, std::integer_sequence<int, L...>) {
  const auto x = a.raw, y = b.raw;
  a.raw = __builtin_shufflevector(x, y, ((L & S) == 0 ? L : W + L - S)...);
  b.raw = __builtin_shufflevector(x, y, ((L & S) == 0 ? L + S : W + L)...);
}
template <int S, typename T, int W>
TORCHDET_LANE void transpose_step(Vec<T, W> (&rows)[W]) {
  if constexpr (S < W) {
    for (int i = 0; i < W; ++i) {
      if ((i & S) == 0) {
        exchange_lanes<S>(rows[i], rows[i + S], std::make_integer_sequence<int, W>());
      }
    }
    transpose_step<S * 2>(rows);
  }
}
template <typename T, int W>
TORCHDET_LANE void transpose(Vec<T, W> (&rows)[W]) {
  transpose_step<1>(rows);
}

// Calls body(offset, count) for runs that cover [0, length): whole packs, the last one overlapping
// its neighbour where the length allows it.
template <int W, typename Body>
TORCHDET_LANE void for_runs(int length, Body body) {
  if (length < W) {
    body(0, length);
    return;
  }
  for (int t = 0; t + W <= length; t += W) {
    body(t, W);
  }
  if (length % W != 0) {
    body(length - W, W);
  }
}

// A tile of n x n packs for one lane type V = Vec or Complex<Vec>.
template <typename V>
struct Tile {
  using T = ScalarOf<V>;
  using R = RealOf<V>;
  static constexpr int W = LaneTraits<V>::kWidth;
  static constexpr int kParts = kIsComplex<V> ? 2 : 1;

  // tile[slot(t)] = number t of a run of `length` numbers (parts of complex entries count singly)
  // of every matrix; consecutive entries of the run lie `entry_step` entries of the tile apart.
  TORCHDET_LANE static void read_run(const T* const (&from)[W], int64_t offset, int length, V* tile,
                                     int entry_step) {
    R* parts = reinterpret_cast<R*>(tile);
    for_runs<W>(length, [&](int start, int count) TORCHDET_LANE_LAMBDA {
      R rows[W];
      for (int lane = 0; lane < W; ++lane) {
        const T* source = from[lane] + offset + start;
        rows[lane] = count == W ? load<T, W>(source) : load_first<T, W>(source, count);
      }
      transpose(rows);
      for (int t = 0; t < count; ++t) {
        const int part = start + t;
        parts[part / kParts * entry_step * kParts + part % kParts] = rows[t];
      }
    });
  }

  TORCHDET_LANE static void write_run(T* const (&to)[W], int lanes, const V* tile, int length) {
    const R* parts = reinterpret_cast<const R*>(tile);
    for_runs<W>(length, [&](int start, int count) TORCHDET_LANE_LAMBDA {
      R rows[W];
      for (int t = 0; t < W; ++t) {
        rows[t] = t < count ? parts[start + t] : R(T(0));
      }
      transpose(rows);
      for (int lane = 0; lane < lanes; ++lane) {
        if (count == W) {
          store(to[lane] + start, rows[lane]);
        } else {
          store_first(to[lane] + start, rows[lane], count);
        }
      }
    });
  }

  // Matrices first .. first + lanes - 1 of the batch; lanes beyond repeat the last one.
  TORCHDET_LANE static void read(const BatchView& view, int64_t first, int lanes, int n, V* tile) {
    const T* from[W];
    const T* data = static_cast<const T*>(view.data);
    if (lanes == W && view.dims == 1) {
      const int64_t step = view.strides[0] * kParts;
      for (int lane = 0; lane < W; ++lane) {
        from[lane] = data + (first + lane) * step;
      }
      if (step == n * n * kParts) {  // the tile after the next one, line by line
        constexpr int kLine = 64 / sizeof(T);
        for (int64_t t = 0; t < W * step; t += kLine) {
          __builtin_prefetch(from[0] + 2 * W * step + t);
        }
      }
    } else {
      for (int lane = 0; lane < W; ++lane) {
        from[lane] = data + view.offset(first + std::min(lane, lanes - 1)) * kParts;
      }
    }
    if (view.column_stride == 1 && view.row_stride == n && tile_stride(n) == n) {
      read_run(from, 0, n * n * kParts, tile, 1);
    } else if (view.column_stride == 1) {
      for (int i = 0; i < n; ++i) {
        read_run(from, i * view.row_stride * kParts, n * kParts, tile + i * tile_stride(n), 1);
      }
    } else if (view.row_stride == 1) {
      for (int j = 0; j < n; ++j) {
        read_run(from, j * view.column_stride * kParts, n * kParts, tile + j, tile_stride(n));
      }
    } else {
      read_strided(from, view, n, tile);
    }
  }

  // out holds contiguous n x n matrices.
  TORCHDET_LANE static void write_whole(void* out, int64_t first, int lanes, int n, const V* tile) {
    T* to[W];
    for (int lane = 0; lane < lanes; ++lane) {
      to[lane] = static_cast<T*>(out) + (first + lane) * n * n * kParts;
    }
    write_run(to, lanes, tile, n * n * kParts);
  }

  // One number per matrix.
  TORCHDET_LANE static V read_numbers(const BatchView& view, int64_t first, int lanes) {
    V x;
    T* parts = reinterpret_cast<T*>(&x);
    for (int lane = 0; lane < W; ++lane) {
      const T* from = static_cast<const T*>(view.data) +
                      view.offset(first + std::min(lane, lanes - 1)) * kParts;
      for (int part = 0; part < kParts; ++part) {
        parts[part * W + lane] = from[part];
      }
    }
    return x;
  }

  TORCHDET_LANE static void write_numbers(void* out, int64_t first, int lanes, const V& x) {
    const T* parts = reinterpret_cast<const T*>(&x);
    T* to = static_cast<T*>(out) + first * kParts;
    for (int lane = 0; lane < lanes; ++lane) {
      for (int part = 0; part < kParts; ++part) {
        to[lane * kParts + part] = parts[part * W + lane];
      }
    }
  }

 private:
  TORCHDET_LANE static void read_strided(const T* const (&from)[W], const BatchView& view, int n,
                                         V* tile) {
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) {
        const int64_t offset = (i * view.row_stride + j * view.column_stride) * kParts;
        T* parts = reinterpret_cast<T*>(tile + i * tile_stride(n) + j);
        for (int lane = 0; lane < W; ++lane) {
          for (int part = 0; part < kParts; ++part) {
            parts[part * W + lane] = from[lane][offset + part];
          }
        }
      }
    }
  }
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
