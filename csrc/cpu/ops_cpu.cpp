// The operators on the CPU: checks, outputs, dtype and size class, and the loop over the batch on
// torch's threads.
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>
#include <vector>

#include "../checks.h"
#include "problem.h"

namespace torchdet {
namespace {

std::vector<int64_t> leading_sizes(const Tensor& A, int64_t dropped) {
  std::vector<int64_t> sizes;
  for (int64_t d = 0; d < A.dim() - dropped; ++d) {
    sizes.push_back(A.size(d));
  }
  return sizes;
}

// Asks for huge pages where a result is large: its first touch otherwise costs a page fault for
// every 4 KB, more than the result itself for small matrices. A hint, whose failure does not
// matter.
void prefer_huge_pages(void* data, size_t bytes) {
#if defined(__linux__)
  constexpr size_t kHugePage = size_t(2) << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) / kHugePage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kHugePage;
  if (bytes >= 4 * kHugePage && end > begin) {
    madvise(reinterpret_cast<void*>(begin * kHugePage), (end - begin) * kHugePage, MADV_HUGEPAGE);
  }
#else
  (void)data;
  (void)bytes;
#endif
}

// An uninitialised tensor of this shape on the CPU. torch::stable::new_empty goes through boxed
// dispatch, which costs a small matrix as much as its determinant.
Tensor uninitialised(const std::vector<int64_t>& sizes, ScalarType dtype) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = stride;
    stride *= std::max<int64_t>(sizes[d], 1);
  }
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)),
      aoti_torch_device_type_cpu(), 0, &handle));
  Tensor out(handle);
  prefer_huge_pages(out.mutable_data_ptr(), stride * out.element_size());
  return out;
}

BatchView batch_view(const Tensor& X, int64_t matrix_dims) {
  BatchView view;
  view.data = X.const_data_ptr();
  for (int64_t d = 0; d < X.dim() - matrix_dims; ++d) {
    view.append(X.size(d), X.stride(d));
  }
  if (matrix_dims == 2) {
    view.row_stride = X.stride(-2);
    view.column_stride = X.stride(-1);
  }
  return view;
}

Dtype kernel_dtype(const Tensor& A) {
  switch (A.scalar_type()) {
    case ScalarType::Float:
      return Dtype::kFloat;
    case ScalarType::Double:
      return Dtype::kDouble;
    case ScalarType::ComplexFloat:
      return Dtype::kComplexFloat;
    default:
      return Dtype::kComplexDouble;
  }
}

// Matrices per unit of work: whole packs of matrices, whatever the width, and whole groups.
constexpr int64_t kLaneUnit = 16, kRowsUnit = 4;
// Multiply-adds that are worth a thread of their own, about 20 microseconds.
constexpr int64_t kGrainOperations = 1 << 18;

void run(const Problem& problem, Kernel Kernels::* kernel, Dtype dtype, int64_t batch) {
  const Kernel run_range = active_kernels().select(dtype, problem.n).*kernel;
  const int64_t unit = problem.n <= kLargestLaneHvp ? kLaneUnit
                       : problem.n <= kLargestRows  ? kRowsUnit
                                                    : 1;
  const int64_t unit_operations = unit * problem.n * problem.n * (problem.n + 8);
  const int64_t grain = std::max<int64_t>(1, kGrainOperations / unit_operations);
  if (batch <= grain * unit) {
    run_range(problem, 0, batch);
    return;
  }
  torch::stable::parallel_for(0, (batch + unit - 1) / unit, grain, [&](int64_t begin, int64_t end) {
    run_range(problem, begin * unit, std::min(end * unit, batch));
  });
}

// The order of the matrices and their number.
int64_t order(const Tensor& A) {
  return A.size(-1);
}
int64_t batch_size(const Tensor& A) {
  int64_t batch = 1;
  for (int64_t d = 0; d < A.dim() - 2; ++d) {
    batch *= A.size(d);
  }
  return batch;
}

Tensor in_float32(const Tensor& X) {
  return torch::stable::to(X, ScalarType::Float);
}

Tensor det_cpu(const Tensor& A) {
  check_matrices("det", "A", A);
  if (is_half(A.scalar_type())) {
    return torch::stable::to(det_cpu(in_float32(A)), A.scalar_type());
  }
  Tensor out = uninitialised(leading_sizes(A, 2), A.scalar_type());
  if (order(A) == 0) {
    return torch::stable::fill_(out, 1.0);
  }
  if (batch_size(A) > 0) {
    const Problem problem{Op::kDet, order(A), batch_view(A, 2), {}, out.mutable_data_ptr(),
                          nullptr};
    run(problem, &Kernels::determinants, kernel_dtype(A), batch_size(A));
  }
  return out;
}

std::tuple<Tensor, Tensor> slogdet_cpu(const Tensor& A) {
  check_matrices("slogdet", "A", A);
  if (is_half(A.scalar_type())) {
    const auto [sign, logabsdet] = slogdet_cpu(in_float32(A));
    return {torch::stable::to(sign, A.scalar_type()),
            torch::stable::to(logabsdet, A.scalar_type())};
  }
  const Dtype dtype = kernel_dtype(A);
  const bool single = dtype == Dtype::kFloat || dtype == Dtype::kComplexFloat;
  Tensor sign = uninitialised(leading_sizes(A, 2), A.scalar_type());
  Tensor logabsdet =
      uninitialised(leading_sizes(A, 2), single ? ScalarType::Float : ScalarType::Double);
  if (order(A) == 0) {
    torch::stable::fill_(sign, 1.0);
    torch::stable::fill_(logabsdet, 0.0);
  } else if (batch_size(A) > 0) {
    const Problem problem{Op::kSlogdet,
                          order(A),
                          batch_view(A, 2),
                          {},
                          sign.mutable_data_ptr(),
                          logabsdet.mutable_data_ptr()};
    run(problem, &Kernels::determinants, dtype, batch_size(A));
  }
  return {sign, logabsdet};
}

// The operators whose result has the shape of A. `other`: grad or Z, with other_dims matrix
// dimensions.
Tensor matrix_operator(Op op, Kernel Kernels::* kernel, const Tensor& A, const Tensor* other,
                       int64_t other_dims) {
  if (is_half(A.scalar_type())) {
    const std::optional<Tensor> widened =
        other ? std::optional<Tensor>(in_float32(*other)) : std::nullopt;
    const Tensor out =
        matrix_operator(op, kernel, in_float32(A), other ? &*widened : nullptr, other_dims);
    return torch::stable::to(out, A.scalar_type());
  }
  Tensor out = uninitialised(leading_sizes(A, 0), A.scalar_type());
  if (order(A) > 0 && batch_size(A) > 0) {
    const Problem problem{op,
                          order(A),
                          batch_view(A, 2),
                          other ? batch_view(*other, other_dims) : BatchView{},
                          out.mutable_data_ptr(),
                          nullptr};
    run(problem, kernel, kernel_dtype(A), batch_size(A));
  }
  return out;
}

Tensor cofactor_cpu(const Tensor& A) {
  check_matrices("cofactor", "A", A);
  return matrix_operator(Op::kCofactor, &Kernels::cofactors, A, nullptr, 0);
}

Tensor det_backward_cpu(const Tensor& grad, const Tensor& A) {
  check_matrices("det_backward", "A", A);
  check_matches("det_backward", "grad", grad, A, 2);
  return matrix_operator(Op::kDetBackward, &Kernels::cofactors, A, &grad, 0);
}

Tensor slogdet_backward_cpu(const Tensor& grad, const Tensor& A) {
  check_matrices("slogdet_backward", "A", A);
  check_matches("slogdet_backward", "grad", grad, A, 2);
  return matrix_operator(Op::kSlogdetBackward, &Kernels::cofactors, A, &grad, 0);
}

Tensor det_hvp_cpu(const Tensor& A, const Tensor& Z) {
  check_matrices("det_hvp", "A", A);
  check_matches("det_hvp", "Z", Z, A, 0);
  return matrix_operator(Op::kDetHvp, &Kernels::hvp, A, &Z, 2);
}

}  // namespace
}  // namespace torchdet

STABLE_TORCH_LIBRARY_IMPL(torchdet, CPU, m) {
  m.impl("det", TORCH_BOX(&torchdet::det_cpu));
  m.impl("slogdet", TORCH_BOX(&torchdet::slogdet_cpu));
  m.impl("cofactor", TORCH_BOX(&torchdet::cofactor_cpu));
  m.impl("det_backward", TORCH_BOX(&torchdet::det_backward_cpu));
  m.impl("slogdet_backward", TORCH_BOX(&torchdet::slogdet_backward_cpu));
  m.impl("det_hvp", TORCH_BOX(&torchdet::det_hvp_cpu));
}
