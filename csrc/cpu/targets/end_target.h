// Ends what begin_<instruction set>.h began; GCC's pragma ends with the translation unit.
#if defined(__clang__)
#pragma clang attribute pop
#endif
