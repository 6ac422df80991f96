// The kernels behind a C interface, called by library.py: a library of nothing else starts in
// seconds, and several of them, with variants of a kernel, can be compared in one process.
#include "../../tests/cuda_emulation/interface.h"
