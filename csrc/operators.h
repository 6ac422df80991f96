// The operators, the same on every device.
#pragma once

#include "operator_steps.h"

namespace torchdet {

// A Backend has
//   static Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype, const Tensor& like);
//   static void run(Problem& problem, Dtype dtype, const Tensor& A);
//   static const void* one(Dtype dtype);
// the second for n > 0 and at least one matrix, the third what stands for a gradient of 1 in such a
// problem; and where it registers the operators that keep,
//   static bool keeps(int64_t n, Dtype dtype);
template <typename Backend>
class Operators : OperatorSteps<Backend> {
  using Steps = OperatorSteps<Backend>;
  using Steps::backward_kept, Steps::check_kept, Steps::compute, Steps::keeps_anything,
      Steps::matrix_operator;
  using Steps::room_to_keep, Steps::shifted, Steps::two_numbers;

 public:
  static Tensor det(const Tensor& A) {
    check_matrices("det", "A", A);
    if (is_half(A.scalar_type())) {
      return torch::stable::to(det(in_float32(A)), A.scalar_type());
    }
    Tensor out = Backend::empty(leading_sizes(A, 2), A.scalar_type(), A);
    if (order(A) == 0) {
      return torch::stable::fill_(out, 1.0);
    }
    compute(A, {.op = Op::kDet, .determinant = out.mutable_data_ptr()});
    return out;
  }

  static std::tuple<Tensor, Tensor> slogdet(const Tensor& A) {
    check_matrices("slogdet", "A", A);
    const ScalarType dtype = A.scalar_type();
    if (is_half(dtype)) {
      const auto [sign, logabsdet] = slogdet(in_float32(A));
      return {torch::stable::to(sign, dtype), torch::stable::to(logabsdet, dtype)};
    }
    return two_numbers(Op::kSlogdet, A, 1.0, 0.0);
  }

  // det = mantissa * 2^exponent; the exponent is a whole number in the real dtype of A, in
  // float32 for half types.
  static std::tuple<Tensor, Tensor> det_frexp(const Tensor& A) {
    check_matrices("det_frexp", "A", A);
    const ScalarType dtype = A.scalar_type();
    if (is_half(dtype)) {
      const auto [mantissa, exponent] = det_frexp(in_float32(A));
      return {torch::stable::to(mantissa, dtype), exponent};
    }
    return two_numbers(Op::kDetFrexp, A, 0.5, 1.0);
  }

  // grad conj(C(A)) 2^-exponent and H(A)[Z] 2^-exponent.
  static Tensor det_frexp_backward(const Tensor& grad, const Tensor& A, const Tensor& exponent) {
    check_matrices("det_frexp_backward", "A", A);
    check_matches("det_frexp_backward", "grad", grad, A, 2);
    return shifted("det_frexp_backward", Op::kDetBackward, A, grad, 0, exponent);
  }
  static Tensor det_frexp_hvp(const Tensor& A, const Tensor& Z, const Tensor& exponent) {
    check_matrices("det_frexp_hvp", "A", A);
    check_matches("det_frexp_hvp", "Z", Z, A, 0);
    return shifted("det_frexp_hvp", Op::kDetHvp, A, Z, 2, exponent);
  }

  // The change of grad conj(C(A)) 2^-exponent with grad and A: grad_tangent conj(C(A)) 2^-exponent
  // + grad conj(H(A)[Z]) 2^-exponent.
  static Tensor det_frexp_backward_jvp(const Tensor& grad, const Tensor& A, const Tensor& exponent,
                                       const Tensor& grad_tangent, const Tensor& Z) {
    const char* const name = "det_frexp_backward_jvp";
    check_matrices(name, "A", A);
    check_matches(name, "grad", grad, A, 2);
    check_matches(name, "grad_tangent", grad_tangent, A, 2);
    check_matches(name, "Z", Z, A, 0);
    check_exponents(name, exponent, A);
    const ScalarType dtype = A.scalar_type();
    if (is_half(dtype)) {
      const Tensor out = det_frexp_backward_jvp(in_float32(grad), in_float32(A), exponent,
                                                in_float32(grad_tangent), in_float32(Z));
      return torch::stable::to(out, dtype);
    }
    const Tensor shifts = as_contiguous(exponent), of_hvp = as_contiguous(grad),
                 of_cofactor = as_contiguous(grad_tangent);
    Tensor out = Backend::empty(leading_sizes(A, 0), dtype, A);
    compute(A, &Z, 2,
            {.op = Op::kDetBackwardJvp,
             .out = out.mutable_data_ptr(),
             .shift = shifts.const_data_ptr(),
             .of_cofactor = of_cofactor.const_data_ptr(),
             .of_hvp = of_hvp.const_data_ptr()});
    return out;
  }
  // Of det(A + t J) at t = 0, times 2^-exponent, for each of d directions (*, d, n, n): the first
  // and the second derivative, (*, d).
  static std::tuple<Tensor, Tensor> det_frexp_jet(const Tensor& A, const Tensor& J,
                                                  const Tensor& exponent) {
    check_matrices("det_frexp_jet", "A", A);
    check_directions("det_frexp_jet", "J", J, A);
    check_exponents("det_frexp_jet", exponent, A);
    const ScalarType dtype = A.scalar_type();
    if (is_half(dtype)) {
      const auto [first, second] = det_frexp_jet(in_float32(A), in_float32(J), exponent);
      return {torch::stable::to(first, dtype), torch::stable::to(second, dtype)};
    }
    std::vector<int64_t> sizes = leading_sizes(A, 2);
    const int64_t directions = J.size(-3);
    sizes.push_back(directions);
    Tensor first = Backend::empty(sizes, dtype, A), second = Backend::empty(sizes, dtype, A);
    if (order(A) == 0) {  // det is 1
      torch::stable::fill_(first, 0.0);
      torch::stable::fill_(second, 0.0);
      return {first, second};
    }
    if (directions > 0) {
      const Tensor shifts = as_contiguous(exponent);
      Problem problem = {.op = Op::kDetJet, .directions = directions};
      problem.direction_stride = J.stride(-3);
      problem.determinant = first.mutable_data_ptr();
      problem.out = second.mutable_data_ptr();
      problem.shift = shifts.const_data_ptr();
      compute(A, &J, 3, std::move(problem));
    }
    return {first, second};
  }

  static Tensor cofactor(const Tensor& A) {
    check_matrices("cofactor", "A", A);
    return matrix_operator(Op::kCofactor, A, nullptr, 0);
  }

  static Tensor det_backward(const Tensor& grad, const Tensor& A) {
    check_matrices("det_backward", "A", A);
    check_matches("det_backward", "grad", grad, A, 2);
    return matrix_operator(Op::kDetBackward, A, &grad, 0);
  }

  static Tensor slogdet_backward(const Tensor& grad, const Tensor& A) {
    check_matrices("slogdet_backward", "A", A);
    check_matches("slogdet_backward", "grad", grad, A, 2);
    return matrix_operator(Op::kSlogdetBackward, A, &grad, 0);
  }

  static Tensor det_hvp(const Tensor& A, const Tensor& Z) {
    check_matrices("det_hvp", "A", A);
    check_matches("det_hvp", "Z", Z, A, 0);
    return matrix_operator(Op::kDetHvp, A, &Z, 2);
  }

  // -X Z^T X with X = A^-T. Directions that share a matrix, by a stride of 0, share its inverse.
  static Tensor slogdet_hvp(const Tensor& A, const Tensor& Z) {
    check_matrices("slogdet_hvp", "A", A);
    check_matches("slogdet_hvp", "Z", Z, A, 0);
    const ScalarType dtype = A.scalar_type();
    if (is_half(dtype)) {
      return torch::stable::to(slogdet_hvp(in_float32(A), in_float32(Z)), dtype);
    }
    Tensor out = Backend::empty(leading_sizes(A, 0), dtype, A);
    if (order(A) == 0 || batch_size(A) == 0) {
      return out;
    }
    std::vector<int64_t> sizes = leading_sizes(A, 0);
    const int64_t n = order(A), batch_dims = A.dim() - 2;
    BatchView distinct = {};
    int64_t count = 1;
    for (int64_t d = 0; d < batch_dims; ++d) {
      sizes[d] = A.stride(d) == 0 ? 1 : sizes[d];
      distinct.append(sizes[d], A.stride(d));
      count *= sizes[d];
    }
    distinct.data = A.const_data_ptr();
    distinct.row_stride = A.stride(-2);
    distinct.column_stride = A.stride(-1);
    const Tensor inverse = Backend::empty(sizes, dtype, A);
    Problem problem = {.op = Op::kSlogdetBackward, .n = n, .batch = count, .A = distinct};
    problem.other.append(count, 0);
    problem.other.data = Backend::one(kernel_dtype(A));
    problem.out = inverse.mutable_data_ptr();
    Backend::run(problem, kernel_dtype(A), A);

    problem = {.op = Op::kSlogdetHvp, .n = n, .batch = batch_size(A), .other = batch_view(Z, 2)};
    for (int64_t d = 0; d < batch_dims; ++d) {
      problem.A.append(A.size(d), sizes[d] == A.size(d) ? inverse.stride(d) : 0);
    }
    problem.A.data = inverse.const_data_ptr();
    problem.A.row_stride = n;
    problem.A.column_stride = 1;
    problem.out = out.mutable_data_ptr();
    Backend::run(problem, kernel_dtype(A), A);
    return out;
  }
  // The same, where the argument A holds conj(X).
  static Tensor slogdet_hvp_kept(const Tensor& A, const Tensor& Z) {
    check_matrices("slogdet_hvp", "A", A);
    check_matches("slogdet_hvp", "Z", Z, A, 0);
    return matrix_operator(Op::kSlogdetHvp, A, &Z, 2);
  }

  // The same along grad Z, one number grad for each matrix. For backends whose kernels multiply.
  static Tensor slogdet_hvp_scaled(const Tensor& grad, const Tensor& A, const Tensor& Z) {
    check_matrices("slogdet_hvp", "A", A);
    check_matches("slogdet_hvp", "grad", grad, A, 2);
    check_matches("slogdet_hvp", "Z", Z, A, 0);
    const ScalarType dtype = A.scalar_type();
    if (is_half(dtype)) {
      const Tensor out = slogdet_hvp_scaled(in_float32(grad), in_float32(A), in_float32(Z));
      return torch::stable::to(out, dtype);
    }
    const Tensor numbers = as_contiguous(grad);
    Tensor out = Backend::empty(leading_sizes(A, 0), dtype, A);
    compute(
        A, &Z, 2,
        {.op = Op::kSlogdetHvp, .out = out.mutable_data_ptr(), .of_hvp = numbers.const_data_ptr()});
    return out;
  }

  // The determinant, and what helps *_backward_kept to its gradient: numbers and integers. Half
  // types keep nothing, nor do orders for which Backend::keeps is false; the first integer says so.
  static std::tuple<Tensor, Tensor, Tensor> det_keep(const Tensor& A) {
    check_matrices("det", "A", A);
    auto [kept, integers] = room_to_keep(A);
    if (!keeps_anything(A)) {
      return {det(A), kept, integers};
    }
    Tensor det = Backend::empty(leading_sizes(A, 2), A.scalar_type(), A);
    compute(A, {.op = Op::kDetKeep,
                .out = kept.mutable_data_ptr(),
                .determinant = det.mutable_data_ptr(),
                .integers = static_cast<int32_t*>(integers.mutable_data_ptr())});
    return {det, kept, integers};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor> slogdet_keep(const Tensor& A) {
    check_matrices("slogdet", "A", A);
    auto [kept, integers] = room_to_keep(A);
    if (!keeps_anything(A)) {
      const auto [sign, logabsdet] = slogdet(A);
      return {sign, logabsdet, kept, integers};
    }
    const ScalarType dtype = A.scalar_type();
    Tensor sign = Backend::empty(leading_sizes(A, 2), dtype, A);
    Tensor logabsdet = Backend::empty(leading_sizes(A, 2), real_dtype(dtype), A);
    compute(A, {.op = Op::kSlogdetKeep,
                .out = kept.mutable_data_ptr(),
                .determinant = sign.mutable_data_ptr(),
                .logabsdet = logabsdet.mutable_data_ptr(),
                .integers = static_cast<int32_t*>(integers.mutable_data_ptr())});
    return {sign, logabsdet, kept, integers};
  }

  static Tensor det_backward_kept(const Tensor& grad, const Tensor& A, const Tensor& kept,
                                  const Tensor& integers) {
    return backward_kept("det_backward", Op::kDetBackward, grad, A, kept, integers);
  }
  static Tensor slogdet_backward_kept(const Tensor& grad, const Tensor& A, const Tensor& kept,
                                      const Tensor& integers) {
    return backward_kept("slogdet_backward", Op::kSlogdetBackward, grad, A, kept, integers);
  }
  // slogdet_backward, and slogdet_backward_kept, with a second result: conj(A^-T), which is the
  // gradient for grad = 1. From n = kLeastBothResults on one inversion gives both. For backends
  // whose kernels write both.
  static std::tuple<Tensor, Tensor> slogdet_backward_inverse(const Tensor& grad, const Tensor& A) {
    check_matrices("slogdet_backward", "A", A);
    check_matches("slogdet_backward", "grad", grad, A, 2);
    if (is_half(A.scalar_type()) || order(A) < kLeastBothResults) {
      const Tensor ones =
          torch::stable::fill_(Backend::empty(leading_sizes(A, 2), A.scalar_type(), A), 1.0);
      return {slogdet_backward(grad, A), slogdet_backward(ones, A)};
    }
    Tensor gradient = Backend::empty(leading_sizes(A, 0), A.scalar_type(), A);
    Tensor inverse = Backend::empty(leading_sizes(A, 0), A.scalar_type(), A);
    compute(A, &grad, 0,
            {.op = Op::kSlogdetBackward,
             .out = gradient.mutable_data_ptr(),
             .inverse = inverse.mutable_data_ptr()});
    return {gradient, inverse};
  }
  static std::tuple<Tensor, Tensor> slogdet_backward_inverse_kept(const Tensor& grad,
                                                                  const Tensor& A,
                                                                  const Tensor& kept,
                                                                  const Tensor& integers) {
    const char* const name = "slogdet_backward";
    check_matrices(name, "A", A);
    if (!keeps_anything(A)) {
      check_kept(name, grad, A, kept, integers);
      return slogdet_backward_inverse(grad, A);
    }
    Tensor inverse = Backend::empty(leading_sizes(A, 0), A.scalar_type(), A);
    return {backward_kept(name, Op::kSlogdetBackward, grad, A, kept, integers,
                          inverse.mutable_data_ptr()),
            inverse};
  }
};

}  // namespace torchdet

// Registers the kernels of a backend for a dispatch key; inside STABLE_TORCH_LIBRARY_IMPL.
#define TORCHDET_REGISTER_OPERATORS(m, Backend)                                           \
  m.impl("det", TORCH_BOX(&torchdet::Operators<Backend>::det));                           \
  m.impl("slogdet", TORCH_BOX(&torchdet::Operators<Backend>::slogdet));                   \
  m.impl("cofactor", TORCH_BOX(&torchdet::Operators<Backend>::cofactor));                 \
  m.impl("det_backward", TORCH_BOX(&torchdet::Operators<Backend>::det_backward));         \
  m.impl("slogdet_backward", TORCH_BOX(&torchdet::Operators<Backend>::slogdet_backward)); \
  m.impl("det_hvp", TORCH_BOX(&torchdet::Operators<Backend>::det_hvp));                   \
  m.impl("slogdet_hvp", TORCH_BOX(&torchdet::Operators<Backend>::slogdet_hvp));           \
  m.impl("_slogdet_hvp_kept", TORCH_BOX(&torchdet::Operators<Backend>::slogdet_hvp_kept))

// Those that keep something, for backends whose kernels do.
#define TORCHDET_REGISTER_KEEPING_OPERATORS(m, Backend)                                      \
  m.impl("_det_keep", TORCH_BOX(&torchdet::Operators<Backend>::det_keep));                   \
  m.impl("_slogdet_keep", TORCH_BOX(&torchdet::Operators<Backend>::slogdet_keep));           \
  m.impl("_det_backward_kept", TORCH_BOX(&torchdet::Operators<Backend>::det_backward_kept)); \
  m.impl("_slogdet_backward_kept", TORCH_BOX(&torchdet::Operators<Backend>::slogdet_backward_kept))

// Those of second derivatives of log|det| that save time or memory, for backends with such kernels.
#define TORCHDET_REGISTER_SLOGDET_TWICE(m, Backend)                                            \
  m.impl("_slogdet_hvp_scaled", TORCH_BOX(&torchdet::Operators<Backend>::slogdet_hvp_scaled)); \
  m.impl("_slogdet_backward_inverse",                                                          \
         TORCH_BOX(&torchdet::Operators<Backend>::slogdet_backward_inverse));                  \
  m.impl("_slogdet_backward_inverse_kept",                                                     \
         TORCH_BOX(&torchdet::Operators<Backend>::slogdet_backward_inverse_kept))

// Those with exponents, for backends that have kernels for them.
#define TORCHDET_REGISTER_FREXP_OPERATORS(m, Backend)                                          \
  m.impl("det_frexp", TORCH_BOX(&torchdet::Operators<Backend>::det_frexp));                    \
  m.impl("_det_frexp_backward", TORCH_BOX(&torchdet::Operators<Backend>::det_frexp_backward)); \
  m.impl("_det_frexp_hvp", TORCH_BOX(&torchdet::Operators<Backend>::det_frexp_hvp));           \
  m.impl("_det_frexp_backward_jvp",                                                            \
         TORCH_BOX(&torchdet::Operators<Backend>::det_frexp_backward_jvp));                    \
  m.impl("_det_frexp_jet", TORCH_BOX(&torchdet::Operators<Backend>::det_frexp_jet))
