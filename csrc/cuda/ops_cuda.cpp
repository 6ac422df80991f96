// The operators on CUDA devices: size class, work space, stream.
#include <torch/csrc/stable/accelerator.h>

#include "../operators.h"
#include "kernel_table.h"
#include "runtime.h"
#include "stream.h"

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
    case Op::kSlogdetHvp:
      return "slogdet_hvp";
    default:
      return "det_hvp";
  }
}

using torch::stable::detail::from;
using torch::stable::detail::to;

// Calls an operator of torch through its dispatcher; the stack holds arguments, then results.
template <size_t kSize>
void call(const char* name, const char* overload, StableIValue (&stack)[kSize]) {
  check_torch(name, torch_call_dispatcher(name, overload, stack, TORCH_ABI_VERSION));
}

// The transposes of the matrices, row after row.
Tensor transposed(const Tensor& X) {
  return torch::stable::contiguous(torch::stable::transpose(X, -2, -1));
}

struct CudaBackend {
  static Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype, const Tensor& like) {
    return empty_tensor(sizes, dtype, aoti_torch_device_type_cuda(), like.get_device_index());
  }

  static const void* one(Dtype) { return nullptr; }  // the kernels' gradient where none is given

  static void run(Problem& problem, Dtype dtype, const Tensor& A) {
    const int32_t device = A.get_device_index();
    const torch::stable::accelerator::DeviceGuard guard(device);
    const CudaKernelTable& table = cuda_kernels();
    const CudaKernel& kernel = table.select_native(problem.op, dtype, problem.n);
    const size_t bytes = kernel.block_bytes(problem.n);
    if (bytes > kSharedBytesEverywhere) {
      const CudaLimits limits = cuda_limits(device);
      check(limits.error == nullptr, name_of(problem.op), ": CUDA: ", limits.error);
      if (bytes > limits.shared_bytes_per_block) {
        const CudaKernel* const cluster =
            limits.has_clusters && problem.batch >= kLeastClusterBatch
                ? table.select_cluster(problem.op, dtype, problem.n, limits.shared_bytes_per_block)
                : nullptr;
        if (cluster != nullptr) {
          launch(*cluster, problem, device);
          return;
        }
        run_large(problem, table.large[static_cast<int>(dtype)], limits, A);
        return;
      }
    }
    launch(kernel, problem, device);
  }

 private:
  static void launch(const CudaKernel& kernel, const Problem& problem, int32_t device) {
    const char* op = name_of(problem.op);
    void* stream = nullptr;
    static const CurrentStream current_stream = find_current_stream();
    check(current_stream != nullptr, op, ": this torch has no CUDA streams");
    check_torch("get_current_cuda_stream", current_stream(device, &stream));
    const char* error = kernel.launch(problem, stream);
    check(error == nullptr, op, ": CUDA: ", error == nullptr ? "" : error, ", at the launch for ",
          problem.batch, " matrices of order ", problem.n);
  }

  // -X (Z^T X) from conj(X). Operators with an `out` are those that autocast leaves alone.
  static void multiply_large(const Problem& problem, const Tensor& A) {
    const int64_t n = problem.n, batch = problem.batch;
    const auto matrices = [&](const BatchView& view) {
      std::vector<int64_t> sizes(view.sizes, view.sizes + view.dims);
      std::vector<int64_t> strides(view.strides, view.strides + view.dims);
      sizes.insert(sizes.end(), {n, n});
      strides.insert(strides.end(), {view.row_stride, view.column_stride});
      const Tensor X = torch::stable::from_blob(const_cast<void*>(view.data), sizes, strides,
                                                A.device(), A.scalar_type());
      return torch::stable::reshape(X, {batch, n, n});
    };
    const auto multiply = [](const Tensor& X, const Tensor& Y, const Tensor& out) {
      StableIValue stack[] = {from(X), from(Y), from(out)};
      call("aten::bmm", "out", stack);
      to<Tensor>(stack[0]);  // out once more, owned by the stack otherwise
    };
    StableIValue conjugate[] = {from(matrices(problem.A))};
    call("aten::conj_physical", "", conjugate);  // nothing new where A is real
    const Tensor X = to<Tensor>(conjugate[0]);
    const Tensor ZX = empty({batch, n, n}, A.scalar_type(), A);
    multiply(torch::stable::transpose(matrices(problem.other), -2, -1), X, ZX);
    StableIValue negate[] = {from(ZX)};
    call("aten::neg_", "", negate);
    to<Tensor>(negate[0]);
    BatchView out = {};
    out.data = problem.out;
    out.append(batch, n * n);
    out.row_stride = n;
    out.column_stride = 1;
    multiply(X, ZX, matrices(out));
  }

  // csrc/cuda/large_kernels.h. All work spaces go back to the allocator in stream order.
  static void run_large(Problem& problem, const CudaLargeKernels& kernels, const CudaLimits& limits,
                        const Tensor& A) {
    const int32_t device = A.get_device_index();
    const int64_t n = problem.n, batch = problem.batch;
    LargeBuffers& large = problem.large;
    const auto take_workspace = [&](const CudaKernel& kernel, int64_t blocks) {
      large.workspace_blocks = blocks;
      large.workspace_stride = static_cast<int64_t>(kernel.block_bytes(n));
      Tensor workspace = empty({blocks * large.workspace_stride}, ScalarType::Byte, A);
      large.workspace = workspace.mutable_data_ptr();
      return workspace;
    };
    if (problem.op == Op::kSlogdetHvp) {
      multiply_large(problem, A);
      return;
    }
    if (problem.op == Op::kDetHvp) {
      const Tensor workspace =
          take_workspace(kernels.hvp, std::min<int64_t>(batch, limits.multiprocessors));
      launch(kernels.hvp, problem, device);
      return;
    }
    const bool wants_inverse = problem.op != Op::kDet && problem.op != Op::kSlogdet;
    const Tensor workspace = take_workspace(kernels.prepare, batch);
    Tensor scaled = empty({batch, n, n}, A.scalar_type(), A);
    Tensor inverse = wants_inverse ? empty({batch, n, n}, A.scalar_type(), A) : scaled;
    large.scaled = scaled.mutable_data_ptr();
    large.inverse = inverse.mutable_data_ptr();
    launch(kernels.prepare, problem, device);

    // No error is raised for a singular matrix, so nothing waits for the device.
    StableIValue factor[] = {from(scaled), from(true), from(false)};  // A, pivot, check_errors
    call("aten::linalg_lu_factor_ex", "", factor);
    const Tensor factors = to<Tensor>(factor[0]), pivots = to<Tensor>(factor[1]);
    to<Tensor>(factor[2]);  // info, owned by the stack otherwise
    const Tensor lu = transposed(factors);
    large.lu = lu.const_data_ptr();
    large.pivots = static_cast<const int32_t*>(pivots.const_data_ptr());
    if (wants_inverse) {  // LU, pivots, B = I, left, adjoint
      StableIValue solve[] = {from(factors), from(pivots), from(inverse), from(true), from(false)};
      call("aten::linalg_lu_solve", "", solve);
      inverse = transposed(to<Tensor>(solve[0]));
      large.inverse = inverse.mutable_data_ptr();
    }
    launch(kernels.select(problem.op), problem, device);
  }
};

}  // namespace
}  // namespace torchdet

// On a driver that cannot run them the kernels are left out, and plain PyTorch serves.
STABLE_TORCH_LIBRARY_IMPL(torchdet, CUDA, m) {
  if (torchdet::cuda_driver_problem().empty()) {
    TORCHDET_REGISTER_OPERATORS(m, torchdet::CudaBackend);
  }
}
