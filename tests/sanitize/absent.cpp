// Kernels that this program is built without: instruction_set.cpp names them, and
// TORCHDET_CPU_CAPABILITY sees to it that nobody asks for them.
#include <cstdlib>

#include "../../csrc/cpu/dispatch/kernel_table.h"

namespace torchdet {

#define TORCHDET_ABSENT(add)             \
  [[gnu::weak]] void add(KernelTable&) { \
    std::abort();                        \
  }
TORCHDET_ABSENT(add_portable_float)
TORCHDET_ABSENT(add_portable_double)
TORCHDET_ABSENT(add_avx2_float)
TORCHDET_ABSENT(add_avx2_double)
TORCHDET_ABSENT(add_avx512_float)
TORCHDET_ABSENT(add_avx512_double)

}  // namespace torchdet
