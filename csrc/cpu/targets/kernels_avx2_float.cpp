// The single precision kernels for AVX2 and FMA: 8 numbers to a pack.
#if defined(__x86_64__)
#include "begin_avx2.h"
#include "fill_table.h"

namespace torchdet {
void add_avx2_float(KernelTable& table) {
  add_kernels<float>(table, Dtype::kFloat, Dtype::kComplexFloat);
}
}  // namespace torchdet
#include "end_target.h"
#endif
