#include "table.h"

template void torchdet::add_thread_kernels<torchdet::Dtype::kComplexFloat>(
    torchdet::CudaKernelTable&);
