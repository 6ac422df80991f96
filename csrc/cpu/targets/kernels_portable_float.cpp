// The single precision kernels for any 64-bit processor: packs of 16 bytes (SSE2, NEON).
#include "standard_headers.h"

#define TORCHDET_CAPABILITY portable
#include "fill_table.h"

namespace torchdet {
const AddKernels add_portable_float = add_kernels<float, Dtype::kFloat, Dtype::kComplexFloat>;
}  // namespace torchdet
