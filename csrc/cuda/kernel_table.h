// Fills the kernel table for one dtype. Included by kernels_<dtype>.cu only, one translation unit
// each, so that they compile side by side.
#pragma once

#include <algorithm>

#include "kernels.h"
#include "large_kernels.h"
#include "thread_kernels.h"
#include "warp_kernels.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename Kernel>
CudaKernel make_kernel() {
  const auto launch_batch = [](const Problem& p, void* stream) {
    constexpr bool kIsShared = Kernel::kMemory == Memory::kShared;
    constexpr int64_t kEach = Kernel::kMatricesPerBlock;
    int64_t blocks = (p.batch + kEach - 1) / kEach;
    if (!kIsShared) {  // those loop over the batch with as many blocks as there is memory for
      blocks = std::min(blocks, p.large.workspace_blocks);
    }
    if (blocks > std::numeric_limits<int32_t>::max()) {
      return "more matrices than one launch can have";
    }
    return launch<Kernel>(p, static_cast<unsigned>(blocks),
                          kIsShared ? Kernel::block_bytes(p.n) : 0, stream);
  };
  return {launch_batch, Kernel::block_bytes};
}

template <typename V, int N>
void set_thread(CudaKernels* kernels) {
  kernels[N].determinants = make_kernel<ThreadDeterminants<V, N>>();
  kernels[N].cofactors = make_kernel<ThreadCofactors<V, N>>();
  // Three complex128 matrices of order 4 take more registers than there are.
  if constexpr (N < 4 || sizeof(V) < 16) {
    kernels[N].hvp = make_kernel<ThreadHvp<V, N>>();
  }
  if constexpr (N > 1) {
    set_thread<V, N - 1>(kernels);
  }
}

template <typename V, int N>
void set_warp(CudaKernels& kernels) {
  kernels.determinants = make_kernel<WarpDeterminants<V, N>>();
  kernels.cofactors = make_kernel<WarpCofactors<V, N>>();
}

template <typename V>
void add_kernels(CudaKernelTable& table, Dtype dtype) {
  const int d = static_cast<int>(dtype);
  constexpr int kBlockTeam = 256;
  // Fewer warps to a block where matrices are large, so that older devices have room for one.
  constexpr int kWarps = sizeof(V) == 16 ? 2 : 4;
  for (int n = 1; n <= kLargestWarp; ++n) {
    CudaKernels& kernels = table.small[d][n];
    kernels.hvp = make_kernel<TeamHvp<V, kWarpSize, kWarps, Memory::kShared>>();
    if (n <= 8) {
      set_warp<V, 8>(kernels);
    } else if (n <= 16) {
      set_warp<V, 16>(kernels);
    } else {
      set_warp<V, 32>(kernels);
    }
  }
  set_thread<V, static_cast<int>(kLargestThread)>(table.small[d]);
  table.block[d] = {make_kernel<TeamDeterminants<V, kBlockTeam, 1>>(),
                    make_kernel<TeamCofactors<V, kBlockTeam, 1>>(),
                    make_kernel<TeamHvp<V, kBlockTeam, 1, Memory::kShared>>()};
  CudaLargeKernels& large = table.large[d];
  large.prepare = make_kernel<LargePrepare<V>>();
  large.determinants = make_kernel<LargeDeterminants<V>>();
  large.cofactors = make_kernel<LargeCofactors<V>>();
  large.hvp = make_kernel<TeamHvp<V, kLargeTeam, 1, Memory::kGlobal>>();
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
