// The double precision kernels.
#include "kernel_table.h"

namespace torchdet {
void add_cuda_double(CudaKernelTable& table) {
  add_kernels<double>(table, Dtype::kDouble);
}
}  // namespace torchdet
