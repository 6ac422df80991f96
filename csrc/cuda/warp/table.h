// The kernels of the class "warp", by the order that their registers hold.
#pragma once

#include "../make_kernel.h"
#include "../slogdet_hvp.h"
#include "hvp.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// entry(kernels, integral_constant N) for the orders n of (kBegin, kEnd], where N >= n is the order
// of the kernel. Orders N are kStep apart to 32, and 8 above.
template <int kStep, int kBegin, int kEnd, typename Entry>
void for_warp_orders(CudaKernels* kernels, Entry entry) {
  if constexpr (kBegin < kEnd) {
    constexpr int kApart = kBegin < 32 ? kStep : 8;
    constexpr int N = (kBegin / kApart + 1) * kApart, kLast = std::min(N, kEnd);
    for (int n = kBegin + 1; n <= kLast; ++n) {
      entry(kernels[n], std::integral_constant<int, N>());
    }
    for_warp_orders<kStep, kLast, kEnd>(kernels, entry);
  }
}
template <Op kOp, Dtype kDtype, int kStep, typename Entry>
void for_orders_of_warps(CudaKernelTable& table, Entry entry) {
  for_warp_orders<kStep, largest_thread(kOp, kDtype), largest_warp(kOp, kDtype)>(
      table.small[static_cast<int>(kDtype)], entry);
}

}  // namespace TORCHDET_CAPABILITY

template <Dtype kDtype>
void add_warp_kernels(CudaKernelTable& table) {
  using V = NumberOf<kDtype>;
  // Where several matrices share a warp, an order more is worth a kernel of its own.
  constexpr int kStep = sizeof(V) == 4 ? 4 : 8;
  for_orders_of_warps<Op::kDet, kDtype, kStep>(table, [](CudaKernels& kernels, auto order) {
    kernels.determinants = make_kernel<WarpDeterminants<V, decltype(order)::value>>();
  });
  for_orders_of_warps<Op::kCofactor, kDtype, kStep>(table, [](CudaKernels& kernels, auto order) {
    kernels.cofactors = make_kernel<WarpCofactors<V, decltype(order)::value>>();
  });
  for_orders_of_warps<Op::kSlogdetHvp, kDtype, 8>(table, [](CudaKernels& kernels, auto order) {
    constexpr int N = decltype(order)::value;
    kernels.slogdet_hvp = make_kernel<WarpSlogdetHvp<V, N>>();
  });
  for_orders_of_warps<Op::kDetHvp, kDtype, 8>(table, [](CudaKernels& kernels, auto order) {
    kernels.hvp = make_kernel<WarpHvp<V, decltype(order)::value>>();
  });
}

}  // namespace torchdet
