// The operators on CUDA devices: size class, work space, stream.
#include <torch/csrc/stable/accelerator.h>

#include "../operators.h"
#include "kernels.h"

// The headers of a CPU-only torch do not declare it, and its library does not have it: weak, so
// that a build with CUDA kernels can still be imported there.
extern "C" __attribute__((weak)) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

namespace torchdet {
namespace {

const char* name_of(Op op) {
  switch (op) {
    case Op::kDet:
      return "det";
    case Op::kSlogdet:
      return "slogdet";
    case Op::kCofactor:
      return "cofactor";
    case Op::kDetBackward:
      return "det_backward";
    case Op::kSlogdetBackward:
      return "slogdet_backward";
    default:
      return "det_hvp";
  }
}

struct CudaBackend {
  static Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype, const Tensor& like) {
    return empty_tensor(sizes, dtype, aoti_torch_device_type_cuda(), like.get_device_index());
  }

  static void run(Problem& problem, Dtype dtype, const Tensor& A) {
    const char* op = name_of(problem.op);
    const int32_t device = A.get_device_index();
    const torch::stable::accelerator::DeviceGuard guard(device);
    void* stream = nullptr;
    check(aoti_torch_get_current_cuda_stream != nullptr, op, ": this torch has no CUDA streams");
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));

    const CudaKernelTable& table = cuda_kernels();
    const int d = static_cast<int>(dtype);
    const CudaKernels& native =
        problem.n <= kLargestWarp ? table.small[d][problem.n] : table.block[d];
    const CudaKernel* kernel = &native.select(problem.op);
    std::optional<Tensor> workspace;  // given back to the allocator in stream order
    const size_t bytes = kernel->block_bytes(problem.n);
    if (bytes > kSharedBytesEverywhere) {
      const CudaLimits limits = cuda_limits(device);
      check(limits.error == nullptr, op, ": CUDA: ", limits.error);
      if (bytes > limits.shared_bytes_per_block) {
        kernel = &table.large[d].select(problem.op);
        problem.workspace_stride = static_cast<int64_t>(kernel->block_bytes(problem.n));
        problem.workspace_blocks = std::min<int64_t>(problem.batch, limits.multiprocessors);
        workspace =
            empty({problem.workspace_blocks * problem.workspace_stride}, ScalarType::Byte, A);
        problem.workspace = workspace->mutable_data_ptr();
      }
    }
    const char* error = kernel->launch(problem, stream);
    check(error == nullptr, op, ": CUDA: ", error == nullptr ? "" : error, ", at the launch for ",
          problem.batch, " matrices of order ", problem.n);
  }
};

}  // namespace
}  // namespace torchdet

STABLE_TORCH_LIBRARY_IMPL(torchdet, CUDA, m) {
  TORCHDET_REGISTER_OPERATORS(m, torchdet::CudaBackend);
}
