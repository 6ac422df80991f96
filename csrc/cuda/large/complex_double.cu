#include "table.h"

template void torchdet::add_large_kernels<torchdet::Dtype::kComplexDouble>(
    torchdet::CudaKernelTable&);
