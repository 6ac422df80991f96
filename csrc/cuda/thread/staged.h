// Matrices of the class "thread" from order 5 on, in the shared memory of their warp.
//
// A warp owns 32 neighbouring matrices, a slice of shared memory, and in it a place for each
// matrix. Global memory sees 16-byte words and whole lines. So do the threads, each of which reads
// its own matrix: places are an odd number of words apart, which spreads any eight threads over all
// banks. Where no whole words make a matrix, the number of its entries is odd, and so is the
// distance of places in numbers.
#pragma once

#include "../results.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename V, int N>
class StagedMatrices {
 public:
  static constexpr int kEntries = N * N, kPerWord = sizeof(Wide) / sizeof(V);
  static constexpr bool kIsWide = kEntries % kPerWord == 0;
  static constexpr int kStride = kIsWide ? (kEntries / kPerWord | 1) * kPerWord : kEntries;
  static constexpr size_t kWarpBytes = sizeof(V) * kWarpSize * kStride;

  // memory: of the warp; first: its first matrix, one of the batch.
  TORCHDET_DEVICE StagedMatrices(int64_t batch, int64_t first, int lane, unsigned char* memory)
      : lane_(lane),
        first_(first),
        active_(batch - first < kWarpSize ? static_cast<int>(batch - first) : kWarpSize),
        shared_(reinterpret_cast<V*>(memory)) {}

  // Whether the thread's matrix is its own. The threads of a warp that have none left work on the
  // last matrix of the batch once more, and do not write.
  TORCHDET_DEVICE bool writes() const { return lane_ < active_; }
  TORCHDET_DEVICE int64_t index() const { return index_of(lane_); }
  TORCHDET_DEVICE V* own() const { return shared_ + lane_ * kStride; }

  // From global to shared memory.
  TORCHDET_DEVICE void stage(const BatchView& view) const {
    const V* data = static_cast<const V*>(view.data);
    const bool by_rows = view.dims == 1 && view.strides[0] == kEntries && view.column_stride == 1 &&
                         view.row_stride == N;
    if (by_rows && active_ == kWarpSize && reinterpret_cast<uintptr_t>(data) % sizeof(Wide) == 0) {
      stage_words(reinterpret_cast<const Wide*>(data + first_ * kEntries));
    } else {
      const int64_t offset = view.offset(index());
      if (view.row_stride == 1 || view.column_stride == 1) {
        stage_one_after_the_other(view, offset);
      } else {
        stage_own(view, offset);
      }
    }
    sync_warp();
  }

  // From shared memory to registers.
  TORCHDET_DEVICE void load(V* a) const {
    constexpr int kBytes = kIsWide ? sizeof(Wide) : sizeof(V);
    constexpr int kEach = kBytes / sizeof(V);
    TORCHDET_UNROLL
    for (int t = 0; t < kEntries; t += kEach) {
      const auto word = load_shared<Word<kBytes>>(own() + t);
      std::memcpy(static_cast<void*>(a + t), &word, kBytes);
    }
  }

  // Row i of the thread's result, to shared memory, in the widest words that it has.
  TORCHDET_DEVICE void put_row(int i, const V (&row)[N]) const {
    constexpr int kRowBytes = N * sizeof(V);
    constexpr int kBytes = kRowBytes % 16 == 0 ? 16 : kRowBytes % 8 == 0 ? 8 : 4;
    unsigned char* to = reinterpret_cast<unsigned char*>(own() + i * N);
    TORCHDET_UNROLL
    for (int t = 0; t < kRowBytes; t += kBytes) {
      Word<kBytes> word;
      std::memcpy(&word, reinterpret_cast<const unsigned char*>(row) + t, kBytes);
      store_shared(to + t, word);
    }
  }

  // From shared to global memory, where matrices lie one after the other.
  TORCHDET_DEVICE void write(void* results) const {
    sync_warp();
    V* out = static_cast<V*>(results) + first_ * kEntries;
    if (active_ == kWarpSize) {
      for_words([&](int w) {
        reinterpret_cast<Wide*>(out)[w] =
            load_shared<Wide>(reinterpret_cast<const Wide*>(shared_) + place_of_word(w));
      });
    } else {
      TORCHDET_ROLL
      for (int e = lane_; e < active_ * kEntries; e += kWarpSize) {
        out[e] = shared_[e / kEntries * kStride + e % kEntries];
      }
    }
    sync_warp();
  }

 private:
  static constexpr int kWords = kWarpSize * kEntries / kPerWord;  // of the warp

  TORCHDET_DEVICE int64_t index_of(int t) const { return first_ + (t < active_ ? t : active_ - 1); }
  TORCHDET_DEVICE static int place_of_word(int w) {
    constexpr int kEach = kIsWide ? kEntries / kPerWord : 1;  // words of a matrix
    return kIsWide ? w / kEach * (kStride / kPerWord) + w % kEach : w;
  }

  // All loads are on their way before the first is waited for: none of them stands in a branch. The
  // threads that have no last word read that of another thread.
  TORCHDET_DEVICE void stage_words(const Wide* from) const {
    constexpr int kEach = (kWords + kWarpSize - 1) / kWarpSize;
    Wide word[kEach];
    TORCHDET_UNROLL
    for (int k = 0; k < kEach; ++k) {
      word[k] = from[minimum(k * kWarpSize + lane_, kWords - 1)];
    }
    int k = 0;
    for_words([&](int w) {
      store_shared(reinterpret_cast<Wide*>(shared_) + place_of_word(w), word[k]);
      ++k;
    });
  }

  template <typename Body>
  TORCHDET_DEVICE void for_words(Body body) const {
    TORCHDET_UNROLL
    for (int t = 0; t < kWords; t += kWarpSize) {
      if (t + kWarpSize <= kWords || t + lane_ < kWords) {
        body(t + lane_);
      }
    }
  }

  // Neighbouring threads read neighbouring numbers of a row or of a column. offset: of the thread's
  // own matrix.
  TORCHDET_DEVICE void stage_one_after_the_other(const BatchView& view, int64_t offset) const {
    const bool by_rows = view.column_stride == 1;
    const int64_t across = by_rows ? view.row_stride : view.column_stride;
    TORCHDET_ROLL
    for (int t = 0; t < kWarpSize; ++t) {
      const V* from = static_cast<const V*>(view.data) + shuffle(offset, t);
      TORCHDET_ROLL
      for (int e = lane_; e < kEntries; e += kWarpSize) {
        const int line = e / N, along = e % N;
        shared_[t * kStride + (by_rows ? e : along * N + line)] = from[line * across + along];
      }
    }
  }

  // Each thread reads its own matrix: neighbouring ones may lie side by side.
  TORCHDET_DEVICE void stage_own(const BatchView& view, int64_t offset) const {
    const V* from = static_cast<const V*>(view.data) + offset;
    TORCHDET_ROLL
    for (int i = 0; i < N; ++i) {
      TORCHDET_ROLL
      for (int j = 0; j < N; ++j) {
        own()[i * N + j] = from[i * view.row_stride + j * view.column_stride];
      }
    }
  }

  const int lane_;
  const int64_t first_;
  const int active_;
  V* const shared_;
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
