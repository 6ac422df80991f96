// The CUDA kernels of the operators, by dtype and order, for callers that know nothing of CUDA.
#pragma once

#include <cstddef>

#include "../problem.h"
#include "select.h"

namespace torchdet {

// Starts a kernel for the whole batch in stream order; null, or what went wrong.
using CudaLaunch = const char* (*)(const Problem&, void* stream);

// A kernel, and the bytes that one of its blocks shares for matrices of order n: shared memory, or
// in the class "large" the work space of each matrix.
struct CudaKernel {
  CudaLaunch launch = nullptr;
  size_t (*block_bytes)(int64_t n) = nullptr;
};

struct CudaKernels : KernelsByOperator<CudaKernel> {
  // The second derivative of log|det| from an inverse; none in the class "large".
  CudaKernel slogdet_hvp;

  const CudaKernel& select(Op op) const {
    return op == Op::kSlogdetHvp ? slogdet_hvp : KernelsByOperator::select(op);
  }
};

struct CudaLimits {
  size_t shared_bytes_per_block;
  int multiprocessors;
  bool has_clusters;  // the device, and the kernels of this build that run on it
  const char* error;  // null, or why the device could not be asked
};
CudaLimits cuda_limits(int device);

// Class "large", in the order of their launches (ops_cuda.cpp): those of KernelsByOperator write
// the results, and by_ldu the ones that they leave.
struct CudaLargeKernels : KernelsByOperator<CudaKernel> {
  CudaKernel copy, scale, identity, pivots, direction;
  KernelsByOperator<CudaKernel> by_ldu;  // none of determinants
  CudaKernel lu[kClusterSizes];          // behind `scale`

  // The kernel that takes the place of torch's LU; null where torch's serves.
  const CudaKernel* select_lu(int64_t n, int64_t batch, const CudaLimits& limits) const {
    const int i = limits.has_clusters ? select_lu_cluster(n, batch, limits.multiprocessors) : -1;
    const bool fits = i >= 0 && lu[i].block_bytes(n) <= limits.shared_bytes_per_block;
    return fits ? &lu[i] : nullptr;
  }
};

// small[dtype][n] for the orders of the classes "thread" and "warp".
struct CudaKernelTable {
  CudaKernels small[kDtypes][kLargestSmall + 1], block[kDtypes];
  CudaKernel cluster[kDtypes][kClusterSizes];  // determinants
  CudaLargeKernels large[kDtypes];

  // The kernel in shared memory or registers, whether or not a block has so much.
  const CudaKernel& select_native(Op op, Dtype dtype, int64_t n) const {
    const int d = static_cast<int>(dtype);
    return (n <= largest_warp(op, dtype) ? small[d][n] : block[d]).select(op);
  }

  // The kernel of the smallest cluster whose blocks, with that much shared memory, hold the matrix;
  // null where there is none.
  const CudaKernel* select_cluster(Op op, Dtype dtype, int64_t n, size_t shared_bytes) const {
    const bool has_kernels = op == Op::kDet || op == Op::kSlogdet;
    for (int i = 0; has_kernels && i < kClusterSizes; ++i) {
      const CudaKernel& kernel = cluster[static_cast<int>(dtype)][i];
      if (kernel.block_bytes(n) <= shared_bytes) {
        return &kernel;
      }
    }
    return nullptr;
  }
};

// Shared memory that a block may have on every device, without asking.
constexpr size_t kSharedBytesEverywhere = 48 * 1024;

// Defined in <class>/table.h, instantiated in <class>/<dtype>.cu.
template <Dtype kDtype>
void add_thread_kernels(CudaKernelTable& table);
template <Dtype kDtype>
void add_warp_kernels(CudaKernelTable& table);
template <Dtype kDtype>
void add_block_kernels(CudaKernelTable& table);
template <Dtype kDtype>
void add_cluster_kernels(CudaKernelTable& table);
template <Dtype kDtype>
void add_large_kernels(CudaKernelTable& table);
template <Dtype kDtype>
void add_lu_kernels(CudaKernelTable& table);

}  // namespace torchdet
