// The single precision kernels.
#include "kernel_table.h"

namespace torchdet {
void add_cuda_float(CudaKernelTable& table) {
  add_kernels<float>(table, Dtype::kFloat);
}
}  // namespace torchdet
