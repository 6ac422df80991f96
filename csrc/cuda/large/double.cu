#include "table.h"

template void torchdet::add_large_kernels<torchdet::Dtype::kDouble>(torchdet::CudaKernelTable&);
