// See runtime.h and kernels.h.
//
// A call of the runtime that fails also leaves its error for the next cudaGetLastError of the
// thread, which would blame another call. failure() clears it.
#include "runtime.h"

#include <cuda_runtime.h>

#include "driver.h"
#include "kernels.h"

namespace torchdet {
namespace {

const char* failure(cudaError_t status) {
  if (status == cudaSuccess) {
    return nullptr;
  }
  cudaGetLastError();
  return cudaGetErrorString(status);
}

// cudaFuncSetAttribute sets a value of the kernel, not of a launch: a launch that set what it needs
// itself could lower what another thread has just set for a larger matrix. All set the same, the
// most that a block of the device may have. Kernels have no shared memory of a fixed size, which
// would count against it.
cudaError_t prepare(const KernelLaunch& launch) {
  int device = 0;
  cudaError_t status = cudaGetDevice(&device);
  const uint64_t bit = device < 64 ? uint64_t(1) << device : 0;  // beyond 64, anew each time
  if (status != cudaSuccess || (launch.prepared.load(std::memory_order_acquire) & bit) != 0) {
    return status;
  }
  int most = 0;
  status = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (status == cudaSuccess) {
    status = cudaFuncSetAttribute(launch.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
  }
  if (status == cudaSuccess && launch.carveout != kNoCarveout) {
    status = cudaFuncSetAttribute(launch.kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  launch.carveout);
  }
  if (status == cudaSuccess) {
    launch.prepared.fetch_or(bit, std::memory_order_release);
  }
  return status;
}

}  // namespace

const char* launch_kernel(const KernelLaunch& launch, const Problem& problem, void* stream) {
  if (launch.shared_bytes > kSharedBytesEverywhere || launch.carveout != kNoCarveout) {
    if (const cudaError_t status = prepare(launch); status != cudaSuccess) {
      return failure(status);
    }
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(launch.blocks);
  config.blockDim = dim3(static_cast<unsigned>(launch.threads));
  config.dynamicSmemBytes = launch.shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  void* parameters[] = {const_cast<Problem*>(&problem)};
  return failure(cudaLaunchKernelExC(&config, launch.kernel, parameters));
}

CudaLimits cuda_limits(int device) {
  int shared = 0, multiprocessors = 0;
  cudaError_t status =
      cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (status == cudaSuccess) {
    status = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  return {static_cast<size_t>(shared), multiprocessors, failure(status)};
}

std::string cuda_driver_problem() {
  return driver_problem(installed_driver(), CUDART_VERSION);
}

}  // namespace torchdet
