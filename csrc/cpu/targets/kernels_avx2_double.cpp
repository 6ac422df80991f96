// The double precision kernels for AVX2 and FMA: 4 numbers to a pack.
#if defined(__x86_64__)
#include "begin_avx2.h"
#include "fill_table.h"

namespace torchdet {
const AddKernels add_avx2_double = add_kernels<double, Dtype::kDouble, Dtype::kComplexDouble>;
}  // namespace torchdet
#include "end_target.h"
#endif
