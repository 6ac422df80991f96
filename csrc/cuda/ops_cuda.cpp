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
    case Op::kDetKeep:
      return "det";
    case Op::kSlogdet:
    case Op::kSlogdetKeep:
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

struct CudaBackend {
  static Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype, const Tensor& like) {
    return empty_tensor(sizes, dtype, aoti_torch_device_type_cuda(), like.get_device_index());
  }

  static const void* one(Dtype) { return nullptr; }  // the kernels' gradient where none is given

  // Where the gradient is the class "large"'s. torch.compile asks without a device, so this is the
  // table's answer also where a block has less memory than the table counts on.
  static bool keeps(int64_t n, Dtype dtype) {
    return is_large(select_cuda(Op::kDetBackward, dtype, n));
  }

  static void run(Problem& problem, Dtype dtype, const Tensor& A) {
    const int32_t device = A.get_device_index();
    const torch::stable::accelerator::DeviceGuard guard(device);
    const CudaKernelTable& table = cuda_kernels();
    const CudaLargeKernels& large = table.large[static_cast<int>(dtype)];
    if (torchdet::keeps(problem.op) || problem.kept != nullptr) {
      run_large(problem, large, limits_of(device, problem.op), A);
      return;
    }
    const CudaKernel& kernel = table.select_native(problem.op, dtype, problem.n);
    const size_t bytes = kernel.block_bytes(problem.n);
    if (bytes > kSharedBytesEverywhere) {
      const CudaLimits limits = limits_of(device, problem.op);
      if (bytes > limits.shared_bytes_per_block) {
        const CudaKernel* const cluster =
            limits.has_clusters && problem.batch >= kLeastClusterBatch
                ? table.select_cluster(problem.op, dtype, problem.n, limits.shared_bytes_per_block)
                : nullptr;
        if (cluster != nullptr) {
          launch(*cluster, problem, device);
          return;
        }
        run_large(problem, large, limits, A);
        return;
      }
    }
    launch(kernel, problem, device);
  }

 private:
  static CudaLimits limits_of(int32_t device, Op op) {
    const CudaLimits limits = cuda_limits(device);
    check(limits.error == nullptr, name_of(op), ": CUDA: ", limits.error);
    return limits;
  }

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

  // out <- X Y. Operators with an `out` are those that autocast leaves alone.
  static void multiply(const Tensor& X, const Tensor& Y, const Tensor& out) {
    StableIValue stack[] = {from(X), from(Y), from(out)};
    call("aten::bmm", "out", stack);
    to<Tensor>(stack[0]);  // out once more, owned by the stack otherwise
  }

  static Tensor transpose(const Tensor& X) { return torch::stable::transpose(X, -2, -1); }

  // LU of a batch of matrices in place, with row exchanges counted from 1. The columns of a matrix
  // lie one after the other. No error is raised for a singular matrix, so nothing waits for the
  // device.
  static void factor(const Tensor& columns, const Tensor& pivots, const Tensor& info) {
    StableIValue stack[] = {from(columns), from(true),   from(false),  // pivot, check_errors
                            from(columns), from(pivots), from(info)};
    call("aten::linalg_lu_factor_ex", "out", stack);
    for (int k = 0; k < 3; ++k) {  // the results once more, owned by the stack otherwise
      to<Tensor>(stack[k]);
    }
  }

  // B <- (P L U)^-H B. What is both argument and result is not copied.
  static void solve_adjoint(const Tensor& factors, const Tensor& pivots, const Tensor& B) {
    StableIValue stack[] = {from(factors), from(pivots), from(B),
                            from(true),    from(true),   from(B)};  // left, adjoint
    call("aten::linalg_lu_solve", "out", stack);
    to<Tensor>(stack[0]);
  }

  // Memory as matrices of A's dtype, one after the other.
  static Tensor matrices_at(void* data, const Problem& problem, const Tensor& A) {
    const int64_t n = problem.n;
    return torch::stable::from_blob(data, {problem.batch, n, n}, {n * n, n, 1}, A.device(),
                                    A.scalar_type());
  }

  // -X (Z^T X) from conj(X).
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
    StableIValue conjugate[] = {from(matrices(problem.A))};
    call("aten::conj_physical", "", conjugate);  // nothing new where A is real
    const Tensor X = to<Tensor>(conjugate[0]);
    const Tensor ZX = empty({batch, n, n}, A.scalar_type(), A);
    multiply(transpose(matrices(problem.other)), X, ZX);
    StableIValue negate[] = {from(ZX)};
    call("aten::neg_", "", negate);
    to<Tensor>(negate[0]);
    multiply(X, ZX, matrices_at(problem.out, problem, A));
  }

  // csrc/cuda/large. All work spaces go back to the allocator in stream order.
  static void run_large(Problem& problem, const CudaLargeKernels& kernels, const CudaLimits& limits,
                        const Tensor& A) {
    if (problem.op == Op::kSlogdetHvp) {
      multiply_large(problem, A);
      return;
    }
    const int32_t device = A.get_device_index();
    const int64_t n = problem.n, batch = problem.batch;
    const bool keeps = torchdet::keeps(problem.op), resumes = problem.kept != nullptr;
    if (keeps) {  // to the kernels it is a determinant
      problem.op = problem.op == Op::kDetKeep ? Op::kDet : Op::kSlogdet;
    }
    const bool wants_inverse = problem.op != Op::kDet && problem.op != Op::kSlogdet;
    LargeBuffers& large = problem.large;
    large.workspace_stride = static_cast<int64_t>(kernels.copy.block_bytes(n));
    large.ldu_blocks = std::min<int64_t>(batch, limits.multiprocessors);
    Tensor workspace = empty({batch * large.workspace_stride}, ScalarType::Byte, A);
    // What is kept is only read.
    Tensor factors = keeps     ? matrices_at(problem.out, problem, A)
                     : resumes ? matrices_at(const_cast<void*>(problem.kept), problem, A)
                               : empty({batch, n, n}, A.scalar_type(), A);
    Tensor inverse = wants_inverse ? empty({batch, n, n}, A.scalar_type(), A) : factors;
    Tensor pivots = empty({batch, n}, ScalarType::Int, A);
    large.workspace = workspace.mutable_data_ptr();
    large.factors = factors.mutable_data_ptr();
    large.inverse = wants_inverse ? inverse.mutable_data_ptr() : nullptr;
    large.pivots = static_cast<int32_t*>(pivots.mutable_data_ptr());

    // B row after row is B^T column after column.
    const Tensor columns = transpose(factors);
    if (resumes) {
      launch(kernels.identity, problem, device);
    } else {
      launch(kernels.copy, problem, device);
      launch(kernels.scale, problem, device);
      if (const CudaKernel* const lu = kernels.select_lu(n, batch, limits); lu != nullptr) {
        launch(*lu, problem, device);
      } else {
        factor(columns, pivots, empty({batch}, ScalarType::Int, A));
      }
    }
    if (wants_inverse) {
      launch(kernels.pivots, problem, device);
      solve_adjoint(columns, pivots, transpose(inverse));
    }
    if (problem.op == Op::kDetHvp) {  // conj(Z'), Z'^H Y and Y Z'^H Y, with Y = conj(X)
      launch(kernels.direction, problem, device);
      const Tensor out = matrices_at(problem.out, problem, A);
      multiply(columns, inverse, out);
      multiply(inverse, out, factors);
    }
    launch(kernels.select(problem.op), problem, device);
    if (wants_inverse) {
      launch(kernels.by_ldu.select(problem.op), problem, device);
    }
    if (keeps) {  // once the determinant has taken the last pivot
      launch(kernels.pivots, problem, device);
    }
  }
};

}  // namespace
}  // namespace torchdet

// On a driver that cannot run them the kernels are left out, and plain PyTorch serves.
STABLE_TORCH_LIBRARY_IMPL(torchdet, CUDA, m) {
  if (torchdet::cuda_driver_problem().empty()) {
    TORCHDET_REGISTER_OPERATORS(m, torchdet::CudaBackend);
    TORCHDET_REGISTER_KEEPING_OPERATORS(m, torchdet::CudaBackend);
  }
}
