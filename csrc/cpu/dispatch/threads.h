// What a kernel asks of the thread that it runs on: work space, and the help of other threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace torchdet {

// Work space of the calling thread, aligned to 64 bytes; valid until the next call on the same
// thread. It stays for later calls up to kLargestScratchKept bytes, which matrices to n = 1024 or
// so need; end_thread_scratch gives back what is larger.
constexpr size_t kLargestScratchKept = size_t(32) << 20;
void* thread_scratch(size_t bytes);
void end_thread_scratch();

// body(context, begin, end) over parts of [0, count), at least `grain` each, on the threads at
// hand: one where the caller is itself one of many.
void parallel_parts(int64_t count, int64_t grain, void* context,
                    void (*body)(void* context, int64_t begin, int64_t end));

}  // namespace torchdet
