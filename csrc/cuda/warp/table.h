// The kernels of the class "warp", by the order that their registers hold.
#pragma once

#include "../make_kernel.h"
#include "../slogdet_hvp.h"
#include "kernels.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// entry(kernels, integral_constant N) for the orders n that the class serves, with N >= n the order
// of the kernel.
template <typename Entry>
void for_warp_orders(CudaKernels* kernels, Op op, Dtype dtype, Entry entry) {
  for (int n = largest_thread(op, dtype) + 1; n <= largest_warp(op, dtype); ++n) {
    if (n <= 8) {
      entry(kernels[n], std::integral_constant<int, 8>());
    } else if (n <= 16) {
      entry(kernels[n], std::integral_constant<int, 16>());
    } else {
      entry(kernels[n], std::integral_constant<int, 32>());
    }
  }
}

}  // namespace TORCHDET_CAPABILITY

template <Dtype kDtype>
void add_warp_kernels(CudaKernelTable& table) {
  using V = NumberOf<kDtype>;
  CudaKernels* const all = table.small[static_cast<int>(kDtype)];
  for_warp_orders(all, Op::kDet, kDtype, [](CudaKernels& kernels, auto order) {
    kernels.determinants = make_kernel<WarpDeterminants<V, decltype(order)::value>>();
  });
  for_warp_orders(all, Op::kCofactor, kDtype, [](CudaKernels& kernels, auto order) {
    kernels.cofactors = make_kernel<WarpCofactors<V, decltype(order)::value>>();
  });
  for_warp_orders(all, Op::kSlogdetHvp, kDtype, [](CudaKernels& kernels, auto order) {
    kernels.slogdet_hvp = make_kernel<WarpSlogdetHvp<V, decltype(order)::value>>();
  });
  // Fewer warps to a block where matrices are large, so that older devices have room for one.
  constexpr int kWarps = sizeof(V) == 16 ? 2 : 4;
  for_warp_orders(all, Op::kDetHvp, kDtype, [](CudaKernels& kernels, auto) {
    kernels.hvp = make_kernel<TeamHvp<V, kWarpSize, kWarps>>();
  });
}

}  // namespace torchdet
