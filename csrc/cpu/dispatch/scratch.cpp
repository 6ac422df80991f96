// Each thread's work space.
#include <new>
#include <stdexcept>
#include <string>

#include "threads.h"

namespace torchdet {
namespace {

class Scratch {
 public:
  ~Scratch() { release(); }
  void* get(size_t bytes) {
    if (bytes > capacity_) {
      release();
      data_ = ::operator new(bytes, kAlignment, std::nothrow);
      if (data_ == nullptr) {
        throw std::runtime_error("torchdet: cannot allocate " + std::to_string(bytes) +
                                 " bytes of work space, which each thread needs for a matrix of "
                                 "this order; free memory, or use fewer threads "
                                 "(torch.set_num_threads)");
      }
      capacity_ = bytes;
    }
    return data_;
  }
  size_t capacity() const { return capacity_; }
  void release() {
    ::operator delete(data_, kAlignment);
    data_ = nullptr;
    capacity_ = 0;
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  void* data_ = nullptr;
  size_t capacity_ = 0;
};

Scratch& own_scratch() {
  thread_local Scratch scratch;
  return scratch;
}

}  // namespace

void* thread_scratch(size_t bytes) {
  return own_scratch().get(bytes);
}

void end_thread_scratch() {
  if (own_scratch().capacity() > kLargestScratchKept) {
    own_scratch().release();
  }
}

}  // namespace torchdet
