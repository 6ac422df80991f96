// What the kernels' callers must know of a device, and of this build.
#include "kernels.h"

#include <cuda_runtime.h>

namespace torchdet {

namespace {

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
  limits = {static_cast<size_t>(shared), multiprocessors, has_clusters,
            status == cudaSuccess ? nullptr : cudaGetErrorString(status)};
  asked = status == cudaSuccess ? device : -1;
  return limits;
}

}  // namespace torchdet
