// Between memory, where a matrix is contiguous (or strided), and a tile, where entry (i, j) of W
// matrices is one pack.
//
// Matrices are read along their unit-stride direction by segments of 16 bytes, W matrices at a
// time, and transposed in registers. No byte outside a matrix is touched.
#pragma once

#include <algorithm>

#include "../../problem.h"
#include "load_store.h"
#include "transpose.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// Calls body(offset) for segments of Q numbers that cover [0, length), the last one overlapping its
// neighbour; length >= Q.
template <int Q, typename Body>
TORCHDET_LANE void for_segments(int length, Body body) {
  for (int t = 0; t + Q <= length; t += Q) {
    body(t);
  }
  if (length % Q != 0) {
    body(length - Q);
  }
}

// A tile of n x n packs for one lane type V = Vec or Complex<Vec>.
template <typename V>
struct Tile {
  using T = ScalarOf<V>;
  using R = RealOf<V>;
  static constexpr int W = LaneTraits<V>::kWidth;
  static constexpr int kParts = kIsComplex<V> ? 2 : 1;
  static constexpr int Q = kSegment<T>;

  // tile[slot(t)] = number t of a run of `length` numbers (parts of complex entries count singly)
  // of every matrix, which begins at from(lane); consecutive entries of the run lie `entry_step`
  // entries of the tile apart.
  template <typename From>
  TORCHDET_LANE static void read_run(From from, int length, V* tile, int entry_step) {
    R* parts = reinterpret_cast<R*>(tile);
    const auto slot = [&](int t) TORCHDET_LANE_LAMBDA {
      return t / kParts * entry_step * kParts + t % kParts;
    };
    if (length < Q) {
      for (int t = 0; t < length; ++t) {
        for (int lane = 0; lane < W; ++lane) {
          reinterpret_cast<T*>(parts + slot(t))[lane] = from(lane)[t];
        }
      }
      return;
    }
    for_segments<Q>(length, [&](int start) TORCHDET_LANE_LAMBDA {
      R x[Q];
      load_transposed([&](int lane) TORCHDET_LANE_LAMBDA { return from(lane) + start; }, x);
      for (int t = 0; t < Q; ++t) {
        parts[slot(start + t)] = x[t];
      }
    });
  }

  template <typename To>
  TORCHDET_LANE static void write_run(To to, const V* tile, int length) {
    const R* parts = reinterpret_cast<const R*>(tile);
    if (length < Q) {
      for (int t = 0; t < length; ++t) {
        for (int lane = 0; lane < W; ++lane) {
          to(lane)[t] = reinterpret_cast<const T*>(parts + t)[lane];
        }
      }
      return;
    }
    for_segments<Q>(length, [&](int start) TORCHDET_LANE_LAMBDA {
      R x[Q];
      for (int t = 0; t < Q; ++t) {
        x[t] = parts[start + t];
      }
      store_transposed(x, [&](int lane) TORCHDET_LANE_LAMBDA { return to(lane) + start; });
    });
  }

  // Matrices first .. first + lanes - 1 of the batch; lanes beyond repeat the last one.
  TORCHDET_LANE static void read(const BatchView& view, int64_t first, int lanes, int n, V* tile) {
    const T* const data = static_cast<const T*>(view.data);
    const bool together = view.column_stride == 1 && view.row_stride == n && tile_stride(n) == n;
    const int numbers = n * n * kParts;
    const bool without_gaps = view.dims == 1 && view.strides[0] == n * n;
    if (without_gaps) {
      const int tile = W * numbers * static_cast<int>(sizeof(T));
      const int64_t later = std::max(2, kBytesAhead / tile);  // in tiles
      prefetch(data + (first + later * W) * numbers, W * numbers);
    }
    if (lanes == W && together && without_gaps) {
      // At distances known at compile time, addresses need no registers.
      const T* const begin = data + first * numbers;
      read_run([&](int lane) TORCHDET_LANE_LAMBDA { return begin + lane * numbers; }, numbers, tile,
               1);
      return;
    }
    const T* from[W];
    for (int lane = 0; lane < W; ++lane) {
      from[lane] = data + view.offset(first + std::min(lane, lanes - 1)) * kParts;
    }
    const auto read_from = [&](int64_t offset, int length, V* to, int step) TORCHDET_LANE_LAMBDA {
      read_run([&](int lane) TORCHDET_LANE_LAMBDA { return from[lane] + offset; }, length, to,
               step);
    };
    if (together) {
      read_from(0, numbers, tile, 1);
    } else if (view.column_stride == 1) {
      for (int i = 0; i < n; ++i) {
        read_from(i * view.row_stride * kParts, n * kParts, tile + i * tile_stride(n), 1);
      }
    } else if (view.row_stride == 1) {
      for (int j = 0; j < n; ++j) {
        read_from(j * view.column_stride * kParts, n * kParts, tile + j, tile_stride(n));
      }
    } else {
      read_strided(from, view, n, tile);
    }
  }

  // Fetches the place of a tile that is written soon: its lines are filled by many small stores,
  // which would wait for it one after the other.
  TORCHDET_LANE static void expect_whole(void* out, int64_t first, int n) {
    const int64_t numbers = n * n * kParts;
    prefetch(static_cast<const T*>(out) + first * numbers, W * numbers);
  }

  // out holds contiguous n x n matrices. Lanes beyond the last one repeat it, and write the same.
  TORCHDET_LANE static void write_whole(void* out, int64_t first, int lanes, int n, const V* tile) {
    const int numbers = n * n * kParts;
    T* const begin = static_cast<T*>(out) + first * numbers;
    const auto write = [&](auto to) TORCHDET_LANE_LAMBDA {
      if (tile_stride(n) == n) {
        write_run(to, tile, numbers);
        return;
      }
      for (int i = 0; i < n; ++i) {
        const auto row = [&](int lane) TORCHDET_LANE_LAMBDA { return to(lane) + i * n * kParts; };
        write_run(row, tile + i * tile_stride(n), n * kParts);
      }
    };
    if (lanes == W) {
      write([&](int lane) TORCHDET_LANE_LAMBDA { return begin + lane * numbers; });
      return;
    }
    T* to[W];
    for (int lane = 0; lane < W; ++lane) {
      to[lane] = begin + std::min(lane, lanes - 1) * numbers;
    }
    write([&](int lane) TORCHDET_LANE_LAMBDA { return to[lane]; });
  }

  // The same with row k of the tile as row row_index[k] of the matrix: as every row goes to memory
  // by itself, it costs nothing to choose where.
  TORCHDET_LANE static void write_rows(void* out, int64_t first, int lanes, int n, const V* tile,
                                       const IntegerOf<V>* row_index) {
    using Index = ScalarOf<IntegerOf<V>>;
    T* const begin = static_cast<T*>(out) + first * n * n * kParts;
    for (int k = 0; k < n; ++k) {
      const IntegerOf<V> offset = row_index[k] * IntegerOf<V>(Index(n * kParts));
      const Index* const offsets = reinterpret_cast<const Index*>(&offset);
      const auto to = [&](int lane) TORCHDET_LANE_LAMBDA {
        return begin + std::min(lane, lanes - 1) * n * n * kParts + offsets[lane];
      };
      write_run(to, tile + k * tile_stride(n), n * kParts);
    }
  }

  // One number per matrix: most often they lie side by side, or are one number for all.
  TORCHDET_LANE static V read_numbers(const BatchView& view, int64_t first, int lanes) {
    const T* const data = static_cast<const T*>(view.data);
    if (lanes == W && view.dims == 1 && view.strides[0] == 1) {
      return load_numbers(data + first * kParts, W, static_cast<const V*>(nullptr));
    }
    V x;
    T* parts = reinterpret_cast<T*>(&x);
    if (view.dims == 1 && view.strides[0] == 0) {
      R* packs = reinterpret_cast<R*>(&x);
      for (int part = 0; part < kParts; ++part) {
        packs[part] = R(data[part]);
      }
      return x;
    }
    for (int lane = 0; lane < W; ++lane) {
      const T* from = data + view.offset(first + std::min(lane, lanes - 1)) * kParts;
      for (int part = 0; part < kParts; ++part) {
        parts[part * W + lane] = from[part];
      }
    }
    return x;
  }

  TORCHDET_LANE static void write_numbers(void* out, int64_t first, int lanes, const V& x) {
    store_numbers(static_cast<T*>(out) + first * kParts, x, lanes);
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
