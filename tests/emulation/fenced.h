// Memory of which no byte before or behind may be touched.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace torchdet {

// For the sanitizer the memory does not exist, or it does again; nothing where there is none.
inline void forbid([[maybe_unused]] void* begin, [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_POISON_MEMORY_REGION(begin, bytes);
#endif
}
inline void allow([[maybe_unused]] void* begin, [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(begin, bytes);
#endif
}

// Bytes between two pages that no instruction may touch, the second one right behind them. The
// address sanitizer also watches what is left of the page before them.
class Fenced {
 public:
  explicit Fenced(size_t bytes) : bytes_(bytes) {
    const size_t page = sysconf(_SC_PAGESIZE);
    const size_t inside = bytes / page * page + page;
    mapped_ = inside + 2 * page;
    begin_ =
        static_cast<char*>(mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (begin_ == MAP_FAILED || mprotect(begin_ + page, inside, PROT_READ | PROT_WRITE) != 0) {
      std::perror("memory");
      std::exit(1);
    }
    data_ = begin_ + page + inside - bytes;
    forbid(begin_ + page, inside - bytes);
  }
  Fenced(Fenced&& other)
      : bytes_(other.bytes_),
        mapped_(std::exchange(other.mapped_, 0)),
        begin_(other.begin_),
        data_(other.data_) {}
  ~Fenced() {
    if (mapped_ > 0) {
      allow(begin_, mapped_);
      munmap(begin_, mapped_);
    }
  }

  size_t bytes() const { return bytes_; }
  char* data() const { return bytes_ > 0 ? data_ : nullptr; }

 private:
  size_t bytes_, mapped_;
  char *begin_, *data_;
};

}  // namespace torchdet
