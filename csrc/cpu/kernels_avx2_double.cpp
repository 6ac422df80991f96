// The double precision kernels for processors with AVX2 and FMA: 4 matrices at a time.
#if defined(__x86_64__)
#include "standard_headers.h"

#define TORCHDET_CAPABILITY avx2
#define TORCHDET_VECTOR_BYTES 32
#define TORCHDET_HAS_FMA
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#include "kernel_table.h"

namespace torchdet {
void add_avx2_double(KernelTable& table) {
  add_kernels<double>(table, Dtype::kDouble, Dtype::kComplexDouble);
}
}  // namespace torchdet
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
