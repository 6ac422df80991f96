// The choice of the instruction set.
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernel_table.h"
#include "processor.h"

namespace torchdet {
namespace {

struct Candidate {
  const char* name;
  bool supported;
  AddKernels add_float, add_double;
};

// What this build has, fastest first; the last one runs anywhere.
std::vector<Candidate> candidates() {
  std::vector<Candidate> all = {
      {"avx512", has_avx512(), add_avx512_float, add_avx512_double},
      {"avx2", has_avx2(), add_avx2_float, add_avx2_double},
      {"portable", true, add_portable_float, add_portable_double},
  };
  std::erase_if(all, [](const Candidate& one) { return one.add_float == nullptr; });
  return all;
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
