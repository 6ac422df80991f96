// What the operators of operators.h have in common: outputs, dtypes, and the problem for a kernel.
#pragma once

#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "checks.h"
#include "select.h"
#include "tensors.h"

namespace torchdet {

// Backend: as of Operators.
template <typename Backend>
class OperatorSteps {
 protected:
  // first_of_empty, second_of_empty: the numbers where n = 0.
  static std::tuple<Tensor, Tensor> two_numbers(Op op, const Tensor& A, double first_of_empty,
                                                double second_of_empty) {
    const ScalarType dtype = A.scalar_type();
    Tensor first = Backend::empty(leading_sizes(A, 2), dtype, A);
    Tensor second = Backend::empty(leading_sizes(A, 2), real_dtype(dtype), A);
    if (order(A) == 0) {
      torch::stable::fill_(first, first_of_empty);
      torch::stable::fill_(second, second_of_empty);
    } else {
      compute(A, {.op = op,
                  .determinant = first.mutable_data_ptr(),
                  .logabsdet = second.mutable_data_ptr()});
    }
    return {first, second};
  }
  // problem: all but the inputs, `other` being grad or Z with other_dims matrix dimensions, or
  // nothing.
  static void compute(const Tensor& A, const Tensor* other, int64_t other_dims, Problem&& problem) {
    if (order(A) == 0 || batch_size(A) == 0) {
      return;
    }
    problem.n = order(A);
    problem.batch = batch_size(A);
    problem.A = batch_view(A, 2);
    if (other != nullptr) {
      problem.other = batch_view(*other, other_dims);
    }
    Backend::run(problem, kernel_dtype(A), A);
  }
  static void compute(const Tensor& A, Problem&& problem) {
    compute(A, nullptr, 0, std::move(problem));
  }

  // The operators whose result has the shape of A. `other`: grad or Z, with other_dims matrix
  // dimensions.
  static Tensor matrix_operator(Op op, const Tensor& A, const Tensor* other, int64_t other_dims) {
    if (is_half(A.scalar_type())) {
      const std::optional<Tensor> widened =
          other ? std::optional<Tensor>(in_float32(*other)) : std::nullopt;
      const Tensor out =
          matrix_operator(op, in_float32(A), other ? &*widened : nullptr, other_dims);
      return torch::stable::to(out, A.scalar_type());
    }
    Tensor out = Backend::empty(leading_sizes(A, 0), A.scalar_type(), A);
    compute(A, other, other_dims, {.op = op, .out = out.mutable_data_ptr()});
    return out;
  }

  static Tensor shifted(const char* name, Op op, const Tensor& A, const Tensor& other,
                        int64_t other_dims, const Tensor& exponent) {
    check_exponents(name, exponent, A);
    const ScalarType dtype = A.scalar_type();
    if (is_half(dtype)) {
      const Tensor out = shifted(name, op, in_float32(A), in_float32(other), other_dims, exponent);
      return torch::stable::to(out, dtype);
    }
    const Tensor shifts = as_contiguous(exponent);
    Tensor out = Backend::empty(leading_sizes(A, 0), dtype, A);
    compute(A, &other, other_dims,
            {.op = op, .out = out.mutable_data_ptr(), .shift = shifts.const_data_ptr()});
    return out;
  }

  static bool keeps_anything(const Tensor& A) {
    return !is_half(A.scalar_type()) && Backend::keeps(order(A), kernel_dtype(A));
  }
  static std::tuple<Tensor, Tensor> room_to_keep(const Tensor& A) {
    Tensor kept = Backend::empty(leading_sizes(A, 0), A.scalar_type(), A);
    std::vector<int64_t> sizes = leading_sizes(A, 2);
    sizes.push_back(count_of_kept_integers(order(A)));
    Tensor integers = Backend::empty(sizes, ScalarType::Int, A);
    if (!keeps_anything(A)) {
      torch::stable::fill_(kept, 0.0);
      torch::stable::fill_(integers, kNotKept);
    }
    return {kept, integers};
  }

  static void check_kept(const char* name, const Tensor& grad, const Tensor& A, const Tensor& kept,
                         const Tensor& integers) {
    check_matrices(name, "A", A);
    check_matches(name, "grad", grad, A, 2);
    check_matches(name, "kept", kept, A, 0);
    check_integers(name, "integers", integers, A, count_of_kept_integers(order(A)));
  }
  // inverse: where a kernel that keeps also writes conj(A^-T); the caller asks keeps_anything.
  static Tensor backward_kept(const char* name, Op op, const Tensor& grad, const Tensor& A,
                              const Tensor& kept, const Tensor& integers, void* inverse = nullptr) {
    check_kept(name, grad, A, kept, integers);
    if (!keeps_anything(A)) {
      return matrix_operator(op, A, &grad, 0);
    }
    const Tensor numbers = as_contiguous(kept), places = as_contiguous(integers);
    Tensor out = Backend::empty(leading_sizes(A, 0), A.scalar_type(), A);
    compute(A, &grad, 0,
            {.op = op,
             .out = out.mutable_data_ptr(),
             .kept = numbers.const_data_ptr(),
             .kept_integers = static_cast<const int32_t*>(places.const_data_ptr()),
             .inverse = inverse});
    return out;
  }
};

}  // namespace torchdet
