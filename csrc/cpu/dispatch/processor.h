// Whether this processor, and the system, have an instruction set. setup.py compiles this header
// alone and asks it for the best one of the machine that builds.
#pragma once

namespace torchdet {

#if defined(__x86_64__)
inline bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}
inline bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#else
inline bool has_avx512() {
  return false;
}
inline bool has_avx2() {
  return false;
}
#endif

}  // namespace torchdet
