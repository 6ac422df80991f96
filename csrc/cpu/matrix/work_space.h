// Work space cut into pieces.
#pragma once

#include "../dispatch/threads.h"
#include "row_matrix.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// Bytes behind every piece that nobody may touch, in a build that watches them (tests/sanitize).
#ifndef TORCHDET_ARENA_GAP
#define TORCHDET_ARENA_GAP 0
#define ASAN_POISON_MEMORY_REGION(begin, bytes)
#endif

// Pieces of the memory at `base`, each on lines of its own. Without memory it only adds them up.
class Arena {
 public:
  explicit Arena(void* base = nullptr) : next_(reinterpret_cast<uintptr_t>(base)) {}
  template <typename X>
  X* take(int64_t count) {
    const uintptr_t piece = next_, end = piece + sizeof(X) * static_cast<size_t>(count);
    next_ = (end + TORCHDET_ARENA_GAP + 63) / 64 * 64;
    ASAN_POISON_MEMORY_REGION(reinterpret_cast<void*>(end), next_ - end);
    return reinterpret_cast<X*>(piece);
  }
  size_t bytes_from_null() const { return next_; }

 private:
  uintptr_t next_;
};

// A matrix in packs. An odd stride spreads its rows over all sets of the cache.
template <typename P>
RowMatrix<P> take_matrix(int64_t n, Arena& arena) {
  const int64_t stride = RowMatrix<P>::packs_for(n) | 1;
  return RowMatrix<P>(arena.take<P>(n * stride), n, stride);
}

// A Space for order n in the thread's scratch. Its constructor Space(n, arena) takes its pieces and
// touches none of them, so it also says how much it needs.
template <typename Space>
size_t space_bytes(int64_t n) {
  Arena without_memory;
  [[maybe_unused]] const Space measured(n, without_memory);
  return without_memory.bytes_from_null();
}
template <typename Space>
Space thread_space(int64_t n) {
  Arena arena(thread_scratch(space_bytes<Space>(n)));
  return Space(n, arena);
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
