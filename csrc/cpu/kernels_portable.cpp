// The kernels for any 64-bit processor: packs of 16 bytes (SSE2, NEON).
#include "standard_headers.h"

#define TORCHDET_CAPABILITY portable
#include "kernel_table.h"

namespace torchdet {
const KernelTable& portable_kernels() {
  static const KernelTable table = make_table("portable");
  return table;
}
}  // namespace torchdet
