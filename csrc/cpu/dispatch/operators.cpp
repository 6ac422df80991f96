// The operators on the CPU, and torch's threads for them.
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <exception>
#include <mutex>

#include "../../operators.h"
#include "batch.h"

namespace torchdet {
namespace {

// Asks for huge pages where a result is large: its first touch otherwise costs a page fault for
// every 4 KB, more than the result itself for small matrices. A hint, whose failure does not
// matter.
void prefer_huge_pages(void* data, size_t bytes) {
#if defined(__linux__)
  constexpr size_t kHugePage = size_t(2) << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) / kHugePage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kHugePage;
  if (bytes >= 4 * kHugePage && end > begin) {
    madvise(reinterpret_cast<void*>(begin * kHugePage), (end - begin) * kHugePage, MADV_HUGEPAGE);
  }
#else
  (void)data;
  (void)bytes;
#endif
}

}  // namespace

void parallel_parts(int64_t count, int64_t grain, void* context,
                    void (*body)(void* context, int64_t begin, int64_t end)) {
  if (count <= grain) {
    body(context, 0, count);
    return;
  }
  // An exception that passed through torch's loop would come back as an error of that loop.
  std::exception_ptr first;
  std::mutex mutex;
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    try {
      body(context, begin, end);
    } catch (...) {
      const std::lock_guard lock(mutex);
      first = first ? first : std::current_exception();
    }
  });
  if (first) {
    std::rethrow_exception(first);
  }
}

namespace {

struct CpuBackend {
  static Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype, const Tensor&) {
    Tensor out = empty_tensor(sizes, dtype, aoti_torch_device_type_cpu(), 0);
    prefer_huge_pages(out.mutable_data_ptr(), out.numel() * out.element_size());
    return out;
  }

  static bool keeps(int64_t n, Dtype dtype) { return n >= least_kept(is_complex_number(dtype)); }

  static const void* one(Dtype dtype) {
    static const double number[] = {1, 0};
    static const float number_in_float32[] = {1, 0};
    const bool is_single = dtype == Dtype::kFloat || dtype == Dtype::kComplexFloat;
    return is_single ? static_cast<const void*>(number_in_float32) : number;
  }

  static void run(Problem& problem, Dtype dtype, const Tensor&) {
    run_batch(problem, dtype, torch::stable::get_num_threads());
  }
};

}  // namespace
}  // namespace torchdet

STABLE_TORCH_LIBRARY_IMPL(torchdet, CPU, m) {
  TORCHDET_REGISTER_OPERATORS(m, torchdet::CpuBackend);
  TORCHDET_REGISTER_KEEPING_OPERATORS(m, torchdet::CpuBackend);
  TORCHDET_REGISTER_FREXP_OPERATORS(m, torchdet::CpuBackend);
  TORCHDET_REGISTER_SLOGDET_TWICE(m, torchdet::CpuBackend);
}
