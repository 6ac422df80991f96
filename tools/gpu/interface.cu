// The kernels behind the C interface that the emulation has, called by library.py: a library of
// nothing else starts in seconds, and several of them, with variants of a kernel, can be compared
// in one process.
#include "device.h"

// What the interface sets of the emulation has no effect here.
namespace torchdet::emulation {
enum class Order {};
struct Schedule {
  Order order;
  uint64_t seed;
  uint32_t fill;
};
[[maybe_unused]] static Schedule schedule;
}  // namespace torchdet::emulation

#pragma GCC visibility push(default)
#include "../../tests/cuda_emulation/library.cpp"
#pragma GCC visibility pop
