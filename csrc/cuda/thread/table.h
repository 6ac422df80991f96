// The kernels of the class "thread": one for each order.
#pragma once

#include "../make_kernel.h"
#include "../slogdet_hvp.h"
#include "elimination_kernels.h"
#include "kernels.h"

namespace torchdet {

template <Dtype kDtype>
void add_thread_kernels(CudaKernelTable& table) {
  using V = NumberOf<kDtype>;
  CudaKernels* const kernels = table.small[static_cast<int>(kDtype)];
  for_orders<largest_thread(Op::kDet, kDtype)>([&](auto order) {
    constexpr int N = decltype(order)::value;
    if constexpr (N <= kLargestClosedThread) {
      kernels[N].determinants = make_kernel<ThreadDeterminants<V, N>>();
    } else {
      kernels[N].determinants = make_kernel<ThreadEliminationDeterminants<V, N>>();
    }
  });
  for_orders<largest_thread(Op::kCofactor, kDtype)>([&](auto order) {
    constexpr int N = decltype(order)::value;
    if constexpr (N <= kLargestClosedThread) {
      kernels[N].cofactors = make_kernel<ThreadCofactors<V, N>>();
    } else {
      kernels[N].cofactors = make_kernel<ThreadEliminationCofactors<V, N>>();
    }
  });
  for_orders<largest_thread(Op::kDetHvp, kDtype)>([&](auto order) {
    constexpr int N = decltype(order)::value;
    kernels[N].hvp = make_kernel<ThreadHvp<V, N>>();
  });
  for_orders<largest_thread(Op::kSlogdetHvp, kDtype)>([&](auto order) {
    constexpr int N = decltype(order)::value;
    kernels[N].slogdet_hvp = make_kernel<ThreadSlogdetHvp<V, N>>();
  });
}

}  // namespace torchdet
