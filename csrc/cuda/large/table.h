// The kernels of the class "large".
#pragma once

#include "../make_kernel.h"
#include "kernels.h"

namespace torchdet {

template <Dtype kDtype>
void add_large_kernels(CudaKernelTable& table) {
  using V = NumberOf<kDtype>;
  CudaLargeKernels& large = table.large[static_cast<int>(kDtype)];
  large.prepare = make_kernel<LargePrepare<V>>();
  large.determinants = make_kernel<LargeDeterminants<V>>();
  large.cofactors = make_kernel<LargeCofactors<V>>();
  large.hvp = make_kernel<TeamHvp<V, kLargeTeam, 1, Memory::kGlobal>>();
}

}  // namespace torchdet
