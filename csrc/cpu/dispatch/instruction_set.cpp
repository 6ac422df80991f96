// The choice of the instruction set.
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernel_table.h"

namespace torchdet {
namespace {

struct Candidate {
  const char* name;
  bool supported;
  void (*add_float)(KernelTable&);
  void (*add_double)(KernelTable&);
};

// Fastest first; the last one runs anywhere.
std::vector<Candidate> candidates() {
  return {
#if defined(__x86_64__) && !defined(TORCHDET_WITHOUT_AVX512)
      {"avx512",
       __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl"),
       add_avx512_float, add_avx512_double},
#endif
#if defined(__x86_64__) && !defined(TORCHDET_WITHOUT_AVX2)
      {"avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), add_avx2_float,
       add_avx2_double},
#endif
      {"portable", true, add_portable_float, add_portable_double},
  };
}

KernelTable choose_kernels() {
  const char* forced = std::getenv("TORCHDET_CPU_CAPABILITY");
  std::string names;
  for (const Candidate& candidate : candidates()) {
    const bool wanted =
        forced == nullptr || *forced == '\0' || std::string(forced) == candidate.name;
    if (wanted && candidate.supported) {
      KernelTable table{};
      table.name = candidate.name;
      candidate.add_float(table);
      candidate.add_double(table);
      return table;
    }
    if (candidate.supported) {
      names += std::string(names.empty() ? "" : ", ") + candidate.name;
    }
  }
  throw std::runtime_error(
      "torchdet: expected TORCHDET_CPU_CAPABILITY to be one that this processor has (" + names +
      "), got " + forced + "; unset it to choose automatically");
}

}  // namespace

std::vector<const char*> built_instruction_sets() {
  std::vector<const char*> names;
  for (const Candidate& candidate : candidates()) {
    names.push_back(candidate.name);
  }
  return names;
}

const KernelTable& active_kernels() {
  static const KernelTable table = choose_kernels();
  return table;
}

}  // namespace torchdet
