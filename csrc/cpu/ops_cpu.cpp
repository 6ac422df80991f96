// The operators on the CPU: size class, and the loop over the batch on torch's threads.
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "../operators.h"
#include "../tuning.h"
#include "kernels.h"

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

// The kernel on matrices of [begin, end) of which nothing has been kept, as many as possible at a
// time.
void for_runs_not_kept(const Problem& p, int64_t begin, int64_t end, Kernel kernel) {
  const int64_t stride = kept_integers(p.n);
  while (begin < end) {
    int64_t last = begin;
    for (; last < end && p.integers[last * stride] == kNotKept; ++last) {
    }
    if (last > begin) {
      kernel(p, begin, last);
    }
    begin = last + 1;
  }
}

// Matrices per unit of work: whole packs of matrices, whatever the width, and whole groups.
constexpr int64_t kLaneUnit = 16, kRowsUnit = 4;

}  // namespace

void parallel_parts(int64_t count, int64_t grain, void* context,
                    void (*body)(void* context, int64_t begin, int64_t end)) {
  if (count <= grain) {
    body(context, 0, count);
    return;
  }
  torch::stable::parallel_for(0, count, grain,
                              [&](int64_t begin, int64_t end) { body(context, begin, end); });
}

namespace {

struct CpuBackend {
  static Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype, const Tensor&) {
    Tensor out = empty_tensor(sizes, dtype, aoti_torch_device_type_cpu(), 0);
    prefer_huge_pages(out.mutable_data_ptr(), out.numel() * out.element_size());
    return out;
  }

  static void run(Problem& problem, Dtype dtype, const Tensor&) {
    const KernelTable& table = active_kernels();
    const Kernel kernel = table.select(dtype, problem.op, problem.n);
    const Kernel kernel_for_kept = table.select_for_kept(dtype, problem.n);
    const bool has_kept = problem.kept != nullptr;
    const auto run_range = [&](const Problem& p, int64_t begin, int64_t end) {
      if (!has_kept) {
        kernel(p, begin, end);
        return;
      }
      kernel_for_kept(p, begin, end);
      for_runs_not_kept(p, begin, end, kernel);
    };
    const int64_t n = problem.n, batch = problem.batch;
    const int64_t unit = n <= kLargestLaneHvp ? kLaneUnit : n <= kLargestRows ? kRowsUnit : 1;
    const bool only_multiplies = has_kept && n <= kLargestRows;
    const int64_t unit_operations = unit * n * n * (only_multiplies ? 8 : n + 8);
    const int64_t grain = std::max<int64_t>(1, kGrainOfBatch / unit_operations);
    const bool share_matrices =
        n >= kLeastShared && batch < static_cast<int64_t>(torch::stable::get_num_threads());
    if (batch <= grain * unit || share_matrices) {
      run_range(problem, 0, batch);
      return;
    }
    torch::stable::parallel_for(0, (batch + unit - 1) / unit, grain,
                                [&](int64_t begin, int64_t end) {
                                  run_range(problem, begin * unit, std::min(end * unit, batch));
                                });
  }
};

}  // namespace
}  // namespace torchdet

STABLE_TORCH_LIBRARY_IMPL(torchdet, CPU, m) {
  TORCHDET_REGISTER_OPERATORS(m, torchdet::CpuBackend);
  TORCHDET_REGISTER_KEEPING_OPERATORS(m, torchdet::CpuBackend);
}
