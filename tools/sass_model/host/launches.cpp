// Which kernel an operator starts, how, and with what parameters, behind a C interface
// (../launches.py calls it).
#include "block/table.h"
#include "cluster/table.h"
#include "kernel_table.h"
#include "large/table.h"
#include "lu/table.h"
#include "thread/table.h"
#include "warp/table.h"

using namespace torchdet;

extern "C" {

// The last order that the classes "thread", "warp", "block" and "cluster" serve.
int64_t largest_order(int op, int dtype) {
  return largest_cluster(static_cast<Op>(op), static_cast<Dtype>(dtype));
}

// What launches.py has in place of an operator: the LU with which the class "large" begins, where a
// batch fills an H200.
constexpr int kLu = -1, kMultiprocessors = 132;

// What a batch of contiguous matrices starts; null, or what went wrong. The addresses are those of
// an imagined memory. others: gradients or directions, 0 for none.
const char* note_launch(int op, int dtype, int64_t n, int64_t batch, uintptr_t matrices,
                        uintptr_t others, uintptr_t results, NotedLaunch* launch) {
  Problem p;
  p.op = op == kLu ? Op::kDet : static_cast<Op>(op);
  p.n = n;
  p.batch = batch;
  p.A.data = reinterpret_cast<const void*>(matrices);
  p.A.row_stride = n;
  p.A.column_stride = 1;
  p.A.append(batch, n * n);
  if (others != 0) {
    const bool is_hvp = p.op == Op::kDetHvp || p.op == Op::kSlogdetHvp;
    p.other.data = reinterpret_cast<const void*>(others);
    p.other.row_stride = n;
    p.other.column_stride = 1;
    p.other.append(batch, is_hvp ? n * n : 1);
  }
  p.out = p.determinant = reinterpret_cast<void*>(results);
  p.large.factors = reinterpret_cast<void*>(matrices);
  p.large.pivots = reinterpret_cast<int32_t*>(results);
  constexpr size_t kSharedBytes = 227 * 1024;  // that a block may ask for on sm_90
  const Dtype of_numbers = static_cast<Dtype>(dtype);
  const CudaKernelTable& table = cuda_kernels();
  const CudaKernel* const kernel =
      op == kLu
          ? table.large[dtype].select_lu(n, batch, {kSharedBytes, kMultiprocessors, true, nullptr})
      : n <= largest_block(p.op, of_numbers)
          ? &table.select_native(p.op, of_numbers, n)
          : table.select_cluster(p.op, of_numbers, n, kSharedBytes);
  if (kernel == nullptr) {
    return "no kernel of the project serves this order";
  }
  const char* const wrong = kernel->launch(p, nullptr);
  *launch = noted_launch;
  return wrong;
}

// The parameter of the kernel that was noted last.
int64_t problem_bytes() {
  return sizeof(Problem);
}
const void* problem() {
  return &noted_problem;
}
}
