// A batch on the CPU: which kernels serve it, and in which parts it goes to the threads. Without
// torch, so that tests on another processor run it too (tests/arm).
#pragma once

#include <algorithm>

#include "../../select.h"
#include "../../tuning.h"
#include "kernel_table.h"
#include "threads.h"

namespace torchdet {

// Matrices per unit of work where they lie in lanes: whole packs, whatever the width. Elsewhere
// parts of equal size count for more than whole groups of matrices that advance side by side.
constexpr int64_t kLaneUnit = 16;

// threads: how many parallel_parts has at hand.
inline void run_batch(const Problem& problem, Dtype dtype, int64_t threads) {
  const KernelTable& table = active_kernels();
  const Kernel kernel = table.select(problem, dtype);
  const int64_t n = problem.n, batch = problem.batch;
  const bool in_lanes =
      select_cpu(problem.op, dtype, n, table.vector_bytes).size_class == kCpuSizeClasses;
  const int64_t unit = in_lanes ? kLaneUnit : 1;
  const int64_t parts = dtype == Dtype::kFloat || dtype == Dtype::kDouble ? 1 : 4;
  const int64_t unit_operations = parts * unit * n * n * (n + 8) * (problem.directions + 1);
  const int64_t grain = std::max<int64_t>(1, kGrainOfBatch / unit_operations);
  // By kernels that can; some take whole matrices.
  const bool takes_whole = problem.op == Op::kSlogdetHvp || problem.op == Op::kDetJet;
  const bool share_matrices = n >= kLeastShared && batch < threads && !takes_whole;
  if (batch <= grain * unit || share_matrices) {
    kernel(problem, 0, batch);
    end_thread_scratch();
    return;
  }
  auto run_units = [&](int64_t begin, int64_t end) {
    kernel(problem, begin * unit, std::min(end * unit, batch));
    end_thread_scratch();
  };
  parallel_parts((batch + unit - 1) / unit, grain, &run_units,
                 [](void* context, int64_t begin, int64_t end) {
                   (*static_cast<decltype(run_units)*>(context))(begin, end);
                 });
}

}  // namespace torchdet
