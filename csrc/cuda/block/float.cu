#include "table.h"

template void torchdet::add_block_kernels<torchdet::Dtype::kFloat>(torchdet::CudaKernelTable&);
