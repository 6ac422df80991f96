// The double precision kernels for any 64-bit processor: packs of 16 bytes (SSE2, NEON).
#include "standard_headers.h"

#define TORCHDET_CAPABILITY portable
#include "fill_table.h"

namespace torchdet {
const AddKernels add_portable_double = add_kernels<double, Dtype::kDouble, Dtype::kComplexDouble>;
}  // namespace torchdet
