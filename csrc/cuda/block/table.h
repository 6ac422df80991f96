// The kernels of the class "block", by the order that their registers hold.
#pragma once

#include "../make_kernel.h"
#include "../slogdet_hvp.h"
#include "kernels.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// One with registers for matrices of order n.
template <template <typename, int> typename Kernel, typename V, int kRows = 2>
CudaKernel block_kernel(int64_t n) {
  if constexpr (kRows < Kernel<V, kRows>::kMostRows) {
    if (n > kRows * kWarpSize) {
      return block_kernel<Kernel, V, Kernel<V, kRows>::kNextRows>(n);
    }
  }
  return make_kernel<Kernel<V, kRows>>();
}
template <template <typename, int> typename Kernel, typename V>
CudaKernel make_block_kernel() {
  const auto launch_batch = [](const Problem& p, void* stream) {
    return block_kernel<Kernel, V>(p.n).launch(p, stream);
  };
  const auto block_bytes = [](int64_t n) {
    constexpr int64_t kLargest = Kernel<V, 2>::kMostRows * kWarpSize;
    return n > kLargest ? std::numeric_limits<size_t>::max()
                        : block_kernel<Kernel, V>(n).block_bytes(n);
  };
  return {launch_batch, block_bytes};
}

}  // namespace TORCHDET_CAPABILITY

template <Dtype kDtype>
void add_block_kernels(CudaKernelTable& table) {
  using V = NumberOf<kDtype>;
  constexpr int kTeam = 256;
  table.block[static_cast<int>(kDtype)] = {
      {make_block_kernel<BlockDeterminants, V>(), make_block_kernel<BlockCofactors, V>(),
       make_kernel<TeamHvp<V, kTeam, 1>>()},
      make_block_kernel<BlockSlogdetHvp, V>()};
}

}  // namespace torchdet
