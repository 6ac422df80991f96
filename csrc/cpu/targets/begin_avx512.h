// From here on the translation unit is compiled for processors with AVX-512 (F, DQ, VL): packs of
// 64 bytes. Standard headers come first (targets/fill_table.h says why); end_target.h ends it.
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
