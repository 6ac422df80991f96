// From a kernel to its entry in the table. Included by the tables of the classes, <class>/table.h,
// and those by <class>/<dtype>.cu: one translation unit each, so that they compile side by side.
#pragma once

#include <algorithm>
#include <type_traits>

#include "results.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

template <Dtype kDtype>
using NumberOf =
    std::conditional_t<kDtype == Dtype::kFloat, float,
                       std::conditional_t<kDtype == Dtype::kDouble, double,
                                          std::conditional_t<kDtype == Dtype::kComplexFloat,
                                                             Complex<float>, Complex<double>>>>;

template <typename Kernel>
CudaKernel make_kernel() {
  const auto launch_batch = [](const Problem& p, void* stream) {
    constexpr bool kIsShared = Kernel::kMemory == Memory::kShared;
    constexpr int64_t kEach = Kernel::kMatricesPerBlock;
    int64_t blocks = (p.batch + kEach - 1) / kEach;
    if (!kIsShared) {  // those loop over the batch with as many blocks as there is memory for
      blocks = std::min(blocks, p.large.workspace_blocks);
    }
    blocks *= cluster_size_of<Kernel>();
    if (blocks > std::numeric_limits<int32_t>::max()) {
      return "more matrices than one launch can have";
    }
    return launch<Kernel>(p, static_cast<unsigned>(blocks),
                          kIsShared ? Kernel::block_bytes(p.n) : 0, stream);
  };
  return {launch_batch, Kernel::block_bytes};
}

// body(n) for n = 1 .. kLast, each a constant.
template <int kLast, typename Body>
void for_orders(Body body) {
  if constexpr (kLast > 0) {
    for_orders<kLast - 1>(body);
    body(std::integral_constant<int, kLast>());
  }
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
