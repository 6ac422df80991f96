#include "table.h"

template void torchdet::add_block_kernels<torchdet::Dtype::kDouble>(torchdet::CudaKernelTable&);
