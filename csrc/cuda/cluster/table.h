// The kernels of the class "cluster", by the blocks of a cluster.
#pragma once

#include "../make_kernel.h"
#include "kernels.h"

namespace torchdet {

template <Dtype kDtype>
void add_cluster_kernels(CudaKernelTable& table) {
  using V = NumberOf<kDtype>;
  CudaKernel(&of_sizes)[kClusterSizes] = table.cluster[static_cast<int>(kDtype)];
  of_sizes[0] = make_kernel<ClusterDeterminants<V, 2>>();
  of_sizes[1] = make_kernel<ClusterDeterminants<V, 4>>();
  of_sizes[2] = make_kernel<ClusterDeterminants<V, 8>>();
  static_assert(ClusterDeterminants<V, 8>::Matrix::kLargestOrder ==
                largest_cluster(Op::kDet, kDtype));
}

}  // namespace torchdet
