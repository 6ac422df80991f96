// From here on the translation unit is compiled for processors with AVX2 and FMA: packs of 32
// bytes. Standard headers come first (targets/fill_table.h says why); end_target.h ends it.
#include "standard_headers.h"

#define TORCHDET_CAPABILITY avx2
#define TORCHDET_VECTOR_BYTES 32
#define TORCHDET_HAS_FMA
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
