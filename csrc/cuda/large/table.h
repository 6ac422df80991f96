// The kernels of the class "large".
#pragma once

#include "../make_kernel.h"
#include "hvp.h"

namespace torchdet {

template <Dtype kDtype>
void add_large_kernels(CudaKernelTable& table) {
  using V = NumberOf<kDtype>;
  CudaLargeKernels& large = table.large[static_cast<int>(kDtype)];
  large.copy = make_kernel<LargeCopy<V>>();
  large.scale = make_kernel<LargeScale<V>>();
  large.identity = make_kernel<LargeIdentity<V>>();
  large.pivots = make_kernel<LargePivots<V>>();
  large.determinants = make_kernel<LargeDeterminants<V>>();
  large.cofactors = make_kernel<LargeCofactors<V>>();
  large.by_ldu.cofactors = make_kernel<LargeCofactorsByLdu<V>>();
  large.direction = make_kernel<LargeDirection<V>>();
  large.hvp = make_kernel<LargeHvp<V>>();
  large.by_ldu.hvp = make_kernel<LargeHvpByLdu<V>>();
}

}  // namespace torchdet
