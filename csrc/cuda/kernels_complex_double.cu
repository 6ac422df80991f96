// The double precision complex kernels.
#include "kernel_table.h"

namespace torchdet {
void add_cuda_complex_double(CudaKernelTable& table) {
  add_kernels<Complex<double>>(table, Dtype::kComplexDouble);
}
}  // namespace torchdet
