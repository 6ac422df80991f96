// Where the matrices of the class "thread" come from and go to.
//
// A warp owns 32 neighbouring matrices. Those of whole 16-byte words each thread reads itself, the
// others pass through the warp's slice of shared memory, so that global memory is read and written
// in whole lines; strided ones are read entry by entry. In shared memory matrices lie at an odd
// stride, which spreads the threads over all banks.
#pragma once

#include "../results.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename V, int N>
class ThreadMatrices {
 public:
  static constexpr int kEntries = N * N, kStride = kEntries | 1;
  static constexpr int kThreads = 128;
  static constexpr size_t kSharedBytes = sizeof(V) * kThreads * kStride;

  // The thread's place: its matrix is first + lane, if there are so many.
  TORCHDET_DEVICE explicit ThreadMatrices(const Problem& problem)
      : lane(thread_index() % kWarpSize),
        first_(block_index() * kThreads + thread_index() / kWarpSize * kWarpSize),
        problem_(problem),
        shared_(shared_memory<V>() + thread_index() / kWarpSize * kWarpSize * kStride) {}

  // body(b) for the thread's matrix b. The threads of a warp that have none left work on the last
  // matrix of the batch once more, and do not write.
  template <typename Body>
  TORCHDET_DEVICE void apply(Body body) {
    if (first_ < problem_.batch) {
      const int64_t left = problem_.batch - first_;
      active_ = left < kWarpSize ? static_cast<int>(left) : kWarpSize;
      body(first_ + (lane < active_ ? lane : active_ - 1));
    }
  }

  TORCHDET_DEVICE void read(const BatchView& view, int64_t b, V* a) const {
    const V* data = static_cast<const V*>(view.data);
    const bool packed = view.dims == 0 || (view.dims == 1 && view.strides[0] == kEntries);
    const bool by_rows = packed && view.column_stride == 1 && view.row_stride == N;
    const bool by_columns = packed && view.row_stride == 1 && view.column_stride == N;
    const bool aligned = reinterpret_cast<uintptr_t>(data) % sizeof(Wide) == 0;
    if (kIsWide && by_rows && aligned) {
      read_wide(data + b * kEntries, a);
    } else if (by_rows || by_columns) {
      stage(data, aligned);
      TORCHDET_UNROLL
      for (int i = 0; i < N; ++i) {
        TORCHDET_UNROLL
        for (int j = 0; j < N; ++j) {
          a[i * N + j] = own()[by_rows ? i * N + j : j * N + i];
        }
      }
      sync_warp();
    } else {
      read_entries(view, b, a);
    }
  }

  // Without shared memory.
  TORCHDET_DEVICE static void read_entries(const BatchView& view, int64_t b, V* a) {
    const V* from = static_cast<const V*>(view.data) + view.offset(b);
    TORCHDET_UNROLL
    for (int i = 0; i < N; ++i) {
      TORCHDET_UNROLL
      for (int j = 0; j < N; ++j) {
        a[i * N + j] = from[i * view.row_stride + j * view.column_stride];
      }
    }
  }

  // Number t of the thread's result comes from value(t) and goes to place(t): to shared memory,
  // until write().
  template <typename Value, typename Place>
  TORCHDET_DEVICE void put(Value value, Place place) const {
    TORCHDET_UNROLL
    for (int t = 0; t < kEntries; ++t) {
      own()[place(t)] = value(t);
    }
  }
  TORCHDET_DEVICE void write() const {
    sync_warp();
    V* out = static_cast<V*>(problem_.out) + first_ * kEntries;
    if (active_ == kWarpSize) {
      TORCHDET_UNROLL
      for (int t = 0; t < kWords; t += kWarpSize) {
        const int w = t + lane;
        if (t + kWarpSize <= kWords || w < kWords) {
          V number[kPerWord];
          TORCHDET_UNROLL
          for (int q = 0; q < kPerWord; ++q) {
            number[q] = shared_[place_of(w * kPerWord + q)];
          }
          Wide word;
          std::memcpy(&word, number, sizeof(word));
          reinterpret_cast<Wide*>(out)[w] = word;
        }
      }
    } else {
      for (int e = lane; e < active_ * kEntries; e += kWarpSize) {
        out[e] = shared_[place_of(e)];
      }
    }
    sync_warp();
  }

  // Whether the thread's matrix is its own, and not a repetition of the last one.
  TORCHDET_DEVICE bool writes() const { return lane < active_; }

  const int lane;

 private:
  static constexpr int kPerWord = sizeof(Wide) / sizeof(V);
  static constexpr int kWords = kWarpSize * kEntries / kPerWord;  // of a warp
  // Whole wide words make a matrix.
  static constexpr bool kIsWide = kEntries % kPerWord == 0;

  TORCHDET_DEVICE V* own() const { return shared_ + lane * kStride; }
  // Where number e of the warp's matrices lies.
  TORCHDET_DEVICE static int place_of(int e) {
    return kStride == kEntries ? e : e / kEntries * kStride + e % kEntries;
  }

  TORCHDET_DEVICE void stage(const V* data, bool aligned) const {
    const V* from = data + first_ * kEntries;
    if (kStride == kEntries && aligned && active_ == kWarpSize) {
      TORCHDET_UNROLL
      for (int t = 0; t < kWords; t += kWarpSize) {
        if (t + kWarpSize <= kWords || t + lane < kWords) {
          reinterpret_cast<Wide*>(shared_)[t + lane] =
              reinterpret_cast<const Wide*>(from)[t + lane];
        }
      }
      sync_warp();
      return;
    }
    for (int e = lane; e < active_ * kEntries; e += kWarpSize) {
      shared_[place_of(e)] = from[e];
    }
    sync_warp();
    if (lane >= active_) {  // a copy of the last matrix, so that every thread has a valid one
      for (int e = 0; e < kEntries; ++e) {
        own()[e] = shared_[(active_ - 1) * kStride + e];
      }
    }
  }

  TORCHDET_DEVICE static void read_wide(const V* from, V* a) {
    TORCHDET_UNROLL
    for (int w = 0; w < kEntries / kPerWord; ++w) {
      const Wide word = reinterpret_cast<const Wide*>(from)[w];
      std::memcpy(static_cast<void*>(a + w * kPerWord), &word, sizeof(word));
    }
  }

  const int64_t first_;
  int active_ = 0;
  const Problem& problem_;
  V* shared_;
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
