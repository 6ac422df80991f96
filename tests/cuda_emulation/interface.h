// The kernels behind a C interface, for programs that have no tensors: on the host, emulated
// (library.cpp), and on a GPU (tools/gpu/interface.cpp).
#pragma once

#include "../../csrc/cuda/kernels.h"
#include "../emulation/view_of.h"

#define TORCHDET_EXPORT extern "C" __attribute__((visibility("default")))

namespace torchdet {

// The kernels of the class "large", in the order in which they run.
enum class Stage { kNative, kPrepare, kFinish };

inline const CudaKernel& kernel_of(int op, int dtype, int64_t n, int stage) {
  const CudaKernelTable& table = cuda_kernels();
  const Op of = static_cast<Op>(op);
  switch (static_cast<Stage>(stage)) {
    case Stage::kPrepare:
      return table.large[dtype].prepare;
    case Stage::kFinish:
      return table.large[dtype].select(of);
    default:
      return table.select_native(of, static_cast<Dtype>(dtype), n);
  }
}

}  // namespace torchdet

// A tensor, in the words of torch.
struct KernelTensor {
  void* data;
  int dims;
  const int64_t *sizes, *strides;
};

// Whether the library has a kernel: one that is built of some of the sources has some of them.
TORCHDET_EXPORT bool kernels_has(int op, int dtype, int64_t n, int stage) {
  return torchdet::kernel_of(op, dtype, n, stage).launch != nullptr;
}

// Bytes that a block (in the class "large" a matrix) needs.
TORCHDET_EXPORT size_t kernels_block_bytes(int op, int dtype, int64_t n, int stage) {
  return torchdet::kernel_of(op, dtype, n, stage).block_bytes(n);
}

// The name of the size class that serves the order n, and the last order that it serves.
TORCHDET_EXPORT const char* kernels_class(int op, int dtype, int64_t n, int64_t* largest) {
  const torchdet::Choice choice =
      torchdet::select_cuda(static_cast<torchdet::Op>(op), static_cast<torchdet::Dtype>(dtype), n);
  *largest = choice.largest_n;
  return choice.size_class->name;
}

// Runs an operator for n, batch > 0; null, or what went wrong. other: grad or Z, or
// none, which is a grad of 1.
TORCHDET_EXPORT const char* kernels_run(int op, int dtype, int64_t n, int64_t batch,
                                        const KernelTensor* A, const KernelTensor* other, void* out,
                                        void* logabsdet, int stage,
                                        const torchdet::LargeBuffers* large, void* stream) {
  using torchdet::Op;
  torchdet::Problem p;
  p.op = static_cast<Op>(op);
  p.n = n;
  p.batch = batch;
  p.A = torchdet::view_of(A->data, A->dims, A->sizes, A->strides, 2);
  if (other != nullptr) {
    p.other = torchdet::view_of(other->data, other->dims, other->sizes, other->strides,
                                p.op == Op::kDetHvp || p.op == Op::kSlogdetHvp ? 2 : 0);
  }
  p.out = p.determinant = out;
  p.logabsdet = logabsdet;
  if (large != nullptr) {
    p.large = *large;
  }
  return torchdet::kernel_of(op, dtype, n, stage).launch(p, stream);
}
