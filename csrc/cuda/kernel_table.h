// Fills the kernel table for one dtype. Included by kernels_<dtype>.cu only, one translation unit
// each, so that they compile side by side.
#pragma once

#include <algorithm>

#include "kernels.h"
#include "team_kernels.h"
#include "thread_kernels.h"
#include "warp_kernels.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <typename Kernel>
CudaKernel make_kernel() {
  const auto launch_batch = [](const Problem& p, void* stream) {
    constexpr bool kIsShared = Kernel::kMemory == Memory::kShared;
    // What a launch may have, or what there is memory for; kernels loop over the rest.
    const int64_t most =
        kIsShared ? int64_t(std::numeric_limits<int32_t>::max()) : p.workspace_blocks;
    constexpr int64_t kEach = Kernel::kMatricesPerBlock;
    const int64_t blocks = std::min((p.batch + kEach - 1) / kEach, most);
    return launch<Kernel>(p, static_cast<unsigned>(blocks),
                          kIsShared ? Kernel::block_bytes(p.n) : 0, stream);
  };
  return {launch_batch, Kernel::block_bytes};
}

template <typename V, int kSize, int kTeams, Memory kMemory>
CudaKernels team_kernels() {
  return {make_kernel<TeamDeterminants<V, kSize, kTeams, kMemory>>(),
          make_kernel<TeamCofactors<V, kSize, kTeams, kMemory>>(),
          make_kernel<TeamHvp<V, kSize, kTeams, kMemory>>()};
}

template <typename V, int N>
void set_thread(CudaKernels* kernels) {
  kernels[N].determinants = make_kernel<ThreadDeterminants<V, N>>();
  kernels[N].cofactors = make_kernel<ThreadCofactors<V, N>>();
  if constexpr (N < 4 ||
                sizeof(V) < 16) {  // three complex128 matrices of order 4 take too many registers
    kernels[N].hvp = make_kernel<ThreadHvp<V, N>>();
  }
  if constexpr (N > 1) {
    set_thread<V, N - 1>(kernels);
  }
}

template <typename V>
void add_kernels(CudaKernelTable& table, Dtype dtype) {
  const int d = static_cast<int>(dtype);
  // Fewer warps to a block where matrices are large, so that older devices have room for one.
  constexpr int kWarps = sizeof(V) == 16 ? 2 : 4;
  for (int n = 1; n <= kLargestWarp; ++n) {
    table.small[d][n] = team_kernels<V, kWarpSize, kWarps, Memory::kShared>();
    table.small[d][n].determinants = n <= 8    ? make_kernel<WarpDeterminants<V, 8>>()
                                     : n <= 16 ? make_kernel<WarpDeterminants<V, 16>>()
                                               : make_kernel<WarpDeterminants<V, 32>>();
  }
  set_thread<V, static_cast<int>(kLargestThread)>(table.small[d]);
  table.block[d] = team_kernels<V, 256, 1, Memory::kShared>();
  table.large[d] = team_kernels<V, 512, 1, Memory::kGlobal>();
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
