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
    int64_t blocks;
    size_t shared_bytes;
    if constexpr (kIsShared) {
      constexpr int64_t kEach = Kernel::kMatricesPerBlock;
      blocks = (p.batch + kEach - 1) / kEach;
      shared_bytes = Kernel::block_bytes(p.n);
    } else {  // class "large": the matrices lie in global memory
      blocks = Kernel::count_blocks(p);
      shared_bytes = Kernel::kSharedBytes;
    }
    blocks *= cluster_size_of<Kernel>();
    if (blocks > std::numeric_limits<int32_t>::max()) {
      return "more matrices than one launch can have";
    }
    return launch<Kernel>(p, static_cast<unsigned>(blocks), shared_bytes, stream);
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
