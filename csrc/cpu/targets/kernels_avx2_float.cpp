// The single precision kernels for AVX2 and FMA: 8 numbers to a pack.
#if defined(__x86_64__)
#include "begin_avx2.h"
#include "fill_table.h"

namespace torchdet {
const AddKernels add_avx2_float = add_kernels<float, Dtype::kFloat, Dtype::kComplexFloat>;
}  // namespace torchdet
#include "end_target.h"
#endif
