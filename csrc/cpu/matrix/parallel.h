// Work on one matrix shared by threads.
#pragma once

#include "../../tuning.h"
#include "../dispatch/threads.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// body(begin, end) for parts of [0, count), on several threads where all of it takes more than
// `grain` multiply-adds, one of the count taking so many operations.
template <typename Body>
void parallel(int64_t count, int64_t operations, int64_t grain, Body body) {
  parallel_parts(count, grain / operations + 1, &body,
                 [](void* context, int64_t begin, int64_t end) {
                   (*static_cast<Body*>(context))(begin, end);
                 });
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
