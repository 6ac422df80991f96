#include "table.h"

template void torchdet::add_cluster_kernels<torchdet::Dtype::kComplexDouble>(
    torchdet::CudaKernelTable&);
