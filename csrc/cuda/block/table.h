// The kernels of the class "block", by the order that their registers hold.
#pragma once

#include "../make_kernel.h"
#include "../slogdet_hvp.h"
#include "hvp.h"
#include "kernels.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// The smallest matrices are those that the class "warp" leaves: above n = 64, determinants have a
// kernel of their own to n = 96.
template <Op kOp, Dtype kDtype>
constexpr int kLeastRows = largest_warp(kOp, kDtype) < 2 * kWarpSize ? 2
                           : kOp == Op::kDet                         ? 3
                                                                     : 4;

// One with registers for matrices of order n.
template <template <typename, int> typename Kernel, Op kOp, Dtype kDtype,
          int kRows = kLeastRows<kOp, kDtype>>
CudaKernel block_kernel(int64_t n) {
  using Smallest = Kernel<NumberOf<kDtype>, kRows>;
  if constexpr (kRows < Smallest::kMostRows) {
    if (n > kRows * kWarpSize) {
      return block_kernel<Kernel, kOp, kDtype, Smallest::kNextRows>(n);
    }
  } else if constexpr (largest_block(kOp, kDtype) > largest_block(Op::kCofactor, kDtype)) {
    if (n > largest_block(Op::kCofactor, kDtype)) {
      return make_kernel<BlockDeterminants<NumberOf<kDtype>, kRows, kLateColumns>>();
    }
  }
  return make_kernel<Smallest>();
}
template <template <typename, int> typename Kernel, Op kOp, Dtype kDtype>
CudaKernel make_block_kernel() {
  const auto launch_batch = [](const Problem& p, void* stream) {
    return block_kernel<Kernel, kOp, kDtype>(p.n).launch(p, stream);
  };
  const auto block_bytes = [](int64_t n) {
    constexpr int64_t kLargest =
        Kernel<NumberOf<kDtype>, kLeastRows<kOp, kDtype>>::kMostRows * kWarpSize;
    return n > kLargest ? std::numeric_limits<size_t>::max()
                        : block_kernel<Kernel, kOp, kDtype>(n).block_bytes(n);
  };
  return {launch_batch, block_bytes};
}

}  // namespace TORCHDET_CAPABILITY

template <Dtype kDtype>
void add_block_kernels(CudaKernelTable& table) {
  table.block[static_cast<int>(kDtype)] = {
      {make_block_kernel<BlockDeterminants, Op::kDet, kDtype>(),
       make_block_kernel<BlockCofactors, Op::kCofactor, kDtype>(),
       make_block_kernel<BlockHvp, Op::kDetHvp, kDtype>()},
      make_block_kernel<BlockSlogdetHvp, Op::kSlogdetHvp, kDtype>()};
}

}  // namespace torchdet
