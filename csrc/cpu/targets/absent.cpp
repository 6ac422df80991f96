// Stands in for the kernels that a build leaves out. The definitions are weak: where a translation
// unit with the kernels is linked, its own takes their place.
#include "../dispatch/kernel_table.h"

namespace torchdet {

#define TORCHDET_ABSENT(add)                 \
  extern const AddKernels add [[gnu::weak]]; \
  const AddKernels add = nullptr
TORCHDET_ABSENT(add_avx512_float);
TORCHDET_ABSENT(add_avx512_double);
TORCHDET_ABSENT(add_avx2_float);
TORCHDET_ABSENT(add_avx2_double);
TORCHDET_ABSENT(add_portable_float);
TORCHDET_ABSENT(add_portable_double);

}  // namespace torchdet
