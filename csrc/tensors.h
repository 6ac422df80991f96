// Tensors as the operators take and make them: shapes, dtypes, views of a batch for the kernels.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <vector>

#include "checks.h"
#include "problem.h"

namespace torchdet {

inline std::vector<int64_t> leading_sizes(const Tensor& A, int64_t dropped) {
  std::vector<int64_t> sizes;
  for (int64_t d = 0; d < A.dim() - dropped; ++d) {
    sizes.push_back(A.size(d));
  }
  return sizes;
}

// An uninitialised contiguous tensor. torch::stable::new_empty goes through boxed dispatch, which
// costs a small matrix as much as its determinant.
inline Tensor empty_tensor(const std::vector<int64_t>& sizes, ScalarType dtype, int32_t device_type,
                           int32_t device_index) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = stride;
    if (__builtin_mul_overflow(stride, std::max<int64_t>(sizes[d], 1), &stride)) {
      stride = 1;  // the tensor is empty, or its numbers could not be counted
    }
  }
  AtenTensorHandle handle;
  const int32_t error = aoti_torch_empty_strided(
      static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)), device_type,
      device_index, &handle);
  check(error == 0, "torchdet: cannot allocate a result of ", stride,
        " numbers; free memory, or pass fewer matrices at a time");
  return Tensor(handle);
}

// Of a tensor that is not empty, and of the first ones of its last but two dimension where
// matrix_dims is 3. The dimensions that remain have a size of 2 at least, and their
// product is a number of 64 bits, so BatchView has room for them.
inline BatchView batch_view(const Tensor& X, int64_t matrix_dims) {
  BatchView view;
  view.data = X.const_data_ptr();
  for (int64_t d = 0; d < X.dim() - matrix_dims; ++d) {
    view.append(X.size(d), X.stride(d));
  }
  if (matrix_dims >= 2) {
    view.row_stride = X.stride(-2);
    view.column_stride = X.stride(-1);
  }
  return view;
}

inline Dtype kernel_dtype(const Tensor& A) {
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

// The order of the matrices and their number.
inline int64_t order(const Tensor& A) {
  return A.size(-1);
}
inline int64_t batch_size(const Tensor& A) {
  int64_t batch = 1;
  for (int64_t d = 0; d < A.dim() - 2; ++d) {
    batch *= A.size(d);
  }
  return batch;
}

inline ScalarType real_dtype(ScalarType dtype) {
  const bool single = dtype == ScalarType::Float || dtype == ScalarType::ComplexFloat;
  return single ? ScalarType::Float : ScalarType::Double;
}

inline Tensor as_contiguous(const Tensor& X) {
  return X.is_contiguous() ? X : torch::stable::contiguous(X);
}
inline Tensor in_float32(const Tensor& X) {
  return torch::stable::to(X, ScalarType::Float);
}

}  // namespace torchdet
