// The portable kernels of single precision in a build for this machine alone, which has better ones
// and runs these in tests only: the same bits from half the time to compile.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O1")
#endif
#include "kernels_portable_float.cpp"
