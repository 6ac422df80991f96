// The single precision kernels for processors with AVX-512 (F, DQ, VL): 16 matrices at a time.
#if defined(__x86_64__)
#include "standard_headers.h"

#define TORCHDET_CAPABILITY avx512
#define TORCHDET_VECTOR_BYTES 64
#define TORCHDET_HAS_FMA
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512vl,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512vl,avx2,fma")
#endif
#include "kernel_table.h"

namespace torchdet {
void add_avx512_float(KernelTable& table) {
  add_kernels<float>(table, Dtype::kFloat, Dtype::kComplexFloat);
}
}  // namespace torchdet
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
