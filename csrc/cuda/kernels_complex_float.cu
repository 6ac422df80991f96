// The single precision complex kernels.
#include "kernel_table.h"

namespace torchdet {
void add_cuda_complex_float(CudaKernelTable& table) {
  add_kernels<Complex<float>>(table, Dtype::kComplexFloat);
}
}  // namespace torchdet
