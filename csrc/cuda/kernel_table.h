// All kernels. The units that define them (<class>/<dtype>.cu) do not include this file: it names
// the kernels of every dtype, and a unit would compile all of them that its class has.
#pragma once

#include "kernels.h"

namespace torchdet {

template <Dtype kDtype>
void add_kernels(CudaKernelTable& table) {
  add_thread_kernels<kDtype>(table);
  add_warp_kernels<kDtype>(table);
  add_block_kernels<kDtype>(table);
  add_cluster_kernels<kDtype>(table);
  add_large_kernels<kDtype>(table);
  add_lu_kernels<kDtype>(table);
}

inline const CudaKernelTable& cuda_kernels() {
  static const CudaKernelTable table = [] {
    CudaKernelTable filled;
    add_kernels<Dtype::kFloat>(filled);
    add_kernels<Dtype::kDouble>(filled);
    add_kernels<Dtype::kComplexFloat>(filled);
    add_kernels<Dtype::kComplexDouble>(filled);
    return filled;
  }();
  return table;
}

}  // namespace torchdet
