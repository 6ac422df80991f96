// The single precision kernels for AVX-512 (F, DQ, VL): 16 numbers to a pack.
#if defined(__x86_64__)
#include "begin_avx512.h"
#include "fill_table.h"

namespace torchdet {
const AddKernels add_avx512_float = add_kernels<float, Dtype::kFloat, Dtype::kComplexFloat>;
}  // namespace torchdet
#include "end_target.h"
#endif
