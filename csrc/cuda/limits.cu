// What the kernels' callers must know of a device, and of this build.
#include "kernels.h"

#include <cuda_runtime.h>

namespace torchdet {

CudaLimits cuda_limits(int device) {
  int shared = 0, multiprocessors = 0;
  cudaError_t status =
      cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (status == cudaSuccess) {
    status = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  return {static_cast<size_t>(shared), multiprocessors,
          status == cudaSuccess ? nullptr : cudaGetErrorString(status)};
}

}  // namespace torchdet
