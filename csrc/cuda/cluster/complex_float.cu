#include "table.h"

template void torchdet::add_cluster_kernels<torchdet::Dtype::kComplexFloat>(
    torchdet::CudaKernelTable&);
