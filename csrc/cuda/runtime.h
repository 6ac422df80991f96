// What the host asks of CUDA's runtime, beside the limits of a device (kernels.h).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "../problem.h"

namespace torchdet {

// The devices, a bit for each, on which a kernel has the attributes that it needs.
using PreparedDevices = std::atomic<uint64_t>;

constexpr int kNoCarveout = -1;

struct KernelLaunch {
  const void* kernel;
  PreparedDevices& prepared;  // one for each kernel, which lives as long as the program
  int carveout;               // shared memory in percent of what it shares with the L1 cache
  int threads;
  int cluster_size;  // in blocks
  unsigned blocks;
  size_t shared_bytes;
};

// Starts a kernel with the parameter `problem` in stream order; null, or what went wrong. Several
// threads may do so at once.
const char* launch_kernel(const KernelLaunch& launch, const Problem& problem, void* stream);

// Why the installed driver cannot run the kernels, and what to do; empty if it can, and where there
// is no driver, and so no GPU.
std::string cuda_driver_problem();

}  // namespace torchdet
