#include "table.h"

template void torchdet::add_block_kernels<torchdet::Dtype::kComplexDouble>(
    torchdet::CudaKernelTable&);
