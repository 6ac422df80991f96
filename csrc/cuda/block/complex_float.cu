#include "table.h"

template void torchdet::add_block_kernels<torchdet::Dtype::kComplexFloat>(
    torchdet::CudaKernelTable&);
