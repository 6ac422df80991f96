// The double precision kernels for AVX-512 (F, DQ, VL): 8 numbers to a pack.
#if defined(__x86_64__)
#include "begin_avx512.h"
#include "fill_table.h"

namespace torchdet {
const AddKernels add_avx512_double = add_kernels<double, Dtype::kDouble, Dtype::kComplexDouble>;
}  // namespace torchdet
#include "end_target.h"
#endif
