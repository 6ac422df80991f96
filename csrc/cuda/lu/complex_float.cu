#include "table.h"

template void torchdet::add_lu_kernels<torchdet::Dtype::kComplexFloat>(torchdet::CudaKernelTable&);
