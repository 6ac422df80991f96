// The emulated kernels behind a C interface (emulated.py calls it).
#include "../emulation/view_of.h"
#include "device.h"
#include "kernel_table.h"

using namespace torchdet;

extern "C" {

// A tensor, in the words of torch.
struct EmulatedTensor {
  void* data;
  int dims;
  const int64_t *sizes, *strides;
};

void emulated_schedule(int order, uint64_t seed, uint32_t fill) {
  emulation::schedule = {static_cast<emulation::Order>(order), seed, fill};
}

// What the class "large" is given beside its problem: as the fields of the same names in Problem.
struct EmulatedLarge {
  LargeBuffers buffers;
  int32_t* integers;
  const void* kept;
  const int32_t* kept_integers;
};

// The kernels of the class "large", in the order in which they run; then those of the class
// "cluster", by the size of the cluster.
enum Stage { kNative, kCopy, kScale, kIdentity, kPivots, kDirection, kFinish, kByLdu, kCluster };

static const CudaKernel& kernel_of(Op op, int dtype, int64_t n, Stage stage) {
  const CudaKernelTable& table = cuda_kernels();
  const CudaLargeKernels& large = table.large[dtype];
  return stage >= kCluster     ? table.cluster[dtype][stage - kCluster]
         : stage == kCopy      ? large.copy
         : stage == kScale     ? large.scale
         : stage == kIdentity  ? large.identity
         : stage == kPivots    ? large.pivots
         : stage == kDirection ? large.direction
         : stage == kFinish    ? large.select(op)
         : stage == kByLdu     ? large.by_ldu.select(op)
                               : table.select_native(op, static_cast<Dtype>(dtype), n);
}

// Bytes that a block (in the class "large" a matrix) needs.
size_t emulated_block_bytes(int op, int dtype, int64_t n, int stage) {
  return kernel_of(static_cast<Op>(op), dtype, n, static_cast<Stage>(stage)).block_bytes(n);
}

// The last order that select.h gives to the class "block".
int emulated_largest_block(int op, int dtype) {
  return largest_block(static_cast<Op>(op), static_cast<Dtype>(dtype));
}

// Runs an operator for n, batch > 0; null, or what went wrong. other: grad or Z, or
// none, which is a grad of 1.
const char* emulated_run(int op, int dtype, int64_t n, int64_t batch, const EmulatedTensor* A,
                         const EmulatedTensor* other, void* out, void* logabsdet, int stage,
                         const EmulatedLarge* large, void* stream) {
  Problem p;
  p.op = static_cast<Op>(op);
  p.n = n;
  p.batch = batch;
  p.A = view_of(A->data, A->dims, A->sizes, A->strides, 2);
  if (other != nullptr) {
    p.other = view_of(other->data, other->dims, other->sizes, other->strides,
                      p.op == Op::kDetHvp || p.op == Op::kSlogdetHvp ? 2 : 0);
  }
  p.out = p.determinant = out;
  p.logabsdet = logabsdet;
  if (large != nullptr) {
    p.large = large->buffers;
    p.integers = large->integers;
    p.kept = large->kept;
    p.kept_integers = large->kept_integers;
  }
  return kernel_of(p.op, dtype, n, static_cast<Stage>(stage)).launch(p, stream);
}

// Factors matrices that lie column after column, on clusters of that size (cluster_size() counts
// them); null, or what went wrong.
const char* emulated_lu(int dtype, int64_t n, int64_t batch, void* factors, int32_t* pivots,
                        int size) {
  Problem p;
  p.n = n;
  p.batch = batch;
  p.large.factors = factors;
  p.large.pivots = pivots;
  return cuda_kernels().large[dtype].lu[size].launch(p, nullptr);
}

// Which cluster select.h chooses for it; -1: torch's LU.
int emulated_lu_cluster(int64_t n, int64_t batch, int multiprocessors) {
  return select_lu_cluster(n, batch, multiprocessors);
}

// The stage whose kernel alone serves an order where blocks have that much shared memory; -1 where
// torch has a part in it, or where the library is built without that kernel.
int emulated_stage(int op, int dtype, int64_t n, size_t shared_bytes) {
  const CudaKernel& kernel = kernel_of(static_cast<Op>(op), dtype, n, kNative);
  if (kernel.launch != nullptr && kernel.block_bytes(n) <= shared_bytes) {
    return kNative;
  }
  const CudaKernelTable& table = cuda_kernels();
  if (table.cluster[dtype][0].launch == nullptr) {
    return -1;
  }
  const CudaKernel* const cluster =
      table.select_cluster(static_cast<Op>(op), static_cast<Dtype>(dtype), n, shared_bytes);
  return cluster == nullptr ? -1 : kCluster + static_cast<int>(cluster - table.cluster[dtype]);
}

// The name of the size class that serves the order n, and the last order that it serves.
const char* emulated_class(int op, int dtype, int64_t n, int64_t* largest) {
  const Choice choice = select_cuda(static_cast<Op>(op), static_cast<Dtype>(dtype), n);
  *largest = choice.largest_n;
  return choice.size_class->name;
}
}
