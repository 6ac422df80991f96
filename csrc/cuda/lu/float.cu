#include "table.h"

template void torchdet::add_lu_kernels<torchdet::Dtype::kFloat>(torchdet::CudaKernelTable&);
