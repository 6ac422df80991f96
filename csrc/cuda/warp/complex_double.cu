#include "table.h"

template void torchdet::add_warp_kernels<torchdet::Dtype::kComplexDouble>(
    torchdet::CudaKernelTable&);
