// What csrc/cuda/device.h includes where nvcc does not compile: the declarations of the emulation,
// but a launch is noted and not run. So the code of kernels is not instantiated, and this compiles
// in seconds.
#pragma once

#define launch emulated_launch
#include "../../../tests/cuda_emulation/emulation.h"
#undef launch

#include <typeinfo>

namespace torchdet {

// launches.py has the same structure.
struct NotedLaunch {
  const char* kernel;  // its type, as the linker knows it
  int64_t threads, blocks, shared_bytes, matrices_per_block, cluster_size;
};
inline NotedLaunch noted_launch;
inline Problem noted_problem;

inline namespace TORCHDET_CAPABILITY {

template <typename Kernel>
const char* launch(const Problem& problem, unsigned blocks, size_t shared_bytes, void*) {
  int64_t matrices_per_block = 0;
  if constexpr (requires { Kernel::kMatricesPerBlock; }) {  // not where blocks share a matrix
    matrices_per_block = Kernel::kMatricesPerBlock;
  }
  noted_launch = {
      typeid(Kernel).name(), Kernel::kThreads,         blocks, static_cast<int64_t>(shared_bytes),
      matrices_per_block,    cluster_size_of<Kernel>()};
  noted_problem = problem;
  return nullptr;
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
