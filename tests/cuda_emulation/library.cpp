// The emulated kernels behind a C interface (emulated.py calls it).
#include "device.h"
#include "interface.h"

using namespace torchdet;

extern "C" void emulated_schedule(int order, uint64_t seed, int fill) {
  emulation::schedule = {static_cast<emulation::Order>(order), seed,
                         static_cast<unsigned char>(fill)};
}
