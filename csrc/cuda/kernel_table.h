// Fills the kernel table for one dtype. Included by kernels_<dtype>.cu only, one translation unit
// each, so that they compile side by side.
#pragma once

#include <algorithm>

#include "block_kernels.h"
#include "kernels.h"
#include "large_kernels.h"
#include "slogdet_hvp.h"
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

// One of the class "block", with registers for matrices of order n.
template <template <typename, int> typename Kernel, typename V, int kRows = 2>
CudaKernel block_kernel(int64_t n) {
  if constexpr (kRows < Kernel<V, kRows>::kMostRows) {
    if (n > kRows * kWarpSize) {
      return block_kernel<Kernel, V, kRows + 2>(n);
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

template <typename V, int N>
void set_thread(CudaKernels* kernels) {
  kernels[N].determinants = make_kernel<ThreadDeterminants<V, N>>();
  kernels[N].cofactors = make_kernel<ThreadCofactors<V, N>>();
  kernels[N].hvp = make_kernel<ThreadHvp<V, N>>();
  kernels[N].slogdet_hvp = make_kernel<ThreadSlogdetHvp<V, N>>();
  if constexpr (N > 1) {
    set_thread<V, N - 1>(kernels);
  }
}

template <typename V, int N>
void set_warp(CudaKernels& kernels) {
  kernels.determinants = make_kernel<WarpDeterminants<V, N>>();
  kernels.cofactors = make_kernel<WarpCofactors<V, N>>();
  kernels.slogdet_hvp = make_kernel<WarpSlogdetHvp<V, N>>();
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
  table.block[d] = {
      {make_block_kernel<BlockDeterminants, V>(), make_block_kernel<BlockCofactors, V>(),
       make_kernel<TeamHvp<V, kBlockTeam, 1, Memory::kShared>>()},
      make_block_kernel<BlockSlogdetHvp, V>()};
  CudaLargeKernels& large = table.large[d];
  large.prepare = make_kernel<LargePrepare<V>>();
  large.determinants = make_kernel<LargeDeterminants<V>>();
  large.cofactors = make_kernel<LargeCofactors<V>>();
  large.hvp = make_kernel<TeamHvp<V, kLargeTeam, 1, Memory::kGlobal>>();
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
