// The LU of large matrices, by the blocks of a cluster.
#pragma once

#include "../make_kernel.h"
#include "kernels.h"

namespace torchdet {

template <Dtype kDtype>
void add_lu_kernels(CudaKernelTable& table) {
  using V = NumberOf<kDtype>;
  CudaKernel(&of_sizes)[kClusterSizes] = table.large[static_cast<int>(kDtype)].lu;
  of_sizes[0] = make_kernel<ClusterLu<V, 2>>();
  of_sizes[1] = make_kernel<ClusterLu<V, 4>>();
  of_sizes[2] = make_kernel<ClusterLu<V, 8>>();
  static_assert(kLuRows == kLargestLu);
}

}  // namespace torchdet
