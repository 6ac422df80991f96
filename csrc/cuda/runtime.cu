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

__global__ void any_kernel() {}

// Whether the device runs code of this build that knows clusters: code for an older architecture,
// compiled anew by the driver, does not.
cudaError_t has_cluster_kernels(int device, bool& result) {
  int has_clusters = 0;
  cudaFuncAttributes code = {};
  cudaError_t status = cudaDeviceGetAttribute(&has_clusters, cudaDevAttrClusterLaunch, device);
  if (status == cudaSuccess && has_clusters != 0) {
    status = cudaFuncGetAttributes(&code, any_kernel);
  }
  result = code.ptxVersion >= 90;
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
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(launch.cluster_size), 1, 1};
  config.attrs = &cluster;
  config.numAttrs = launch.cluster_size > 1 ? 1 : 0;
  void* parameters[] = {const_cast<Problem*>(&problem)};
  return failure(cudaLaunchKernelExC(&config, launch.kernel, parameters));
}

CudaLimits cuda_limits(int device) {
  thread_local int asked = -1;  // the answers do not change
  thread_local CudaLimits limits;
  if (device == asked) {
    return limits;
  }
  int shared = 0, multiprocessors = 0;
  cudaError_t status =
      cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (status == cudaSuccess) {
    status = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  bool has_clusters = false;
  if (status == cudaSuccess) {
    status = has_cluster_kernels(device, has_clusters);
  }
  limits = {static_cast<size_t>(shared), multiprocessors, has_clusters, failure(status)};
  asked = status == cudaSuccess ? device : -1;
  return limits;
}

std::string cuda_driver_problem() {
  return driver_problem(installed_driver(), CUDART_VERSION);
}

}  // namespace torchdet
