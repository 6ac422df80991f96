// The operators of slogdet_solve on the CPU.
#include <array>

#include <torch/csrc/stable/library.h>

#include "solve.h"

#include "../../tensors.h"
#include "../dispatch/batch.h"

namespace torchdet {
namespace {

// Above, the kernel of the class "blocked" is faster.
constexpr int64_t kLargestScalarFactor = 12, kLargestComplexScalarFactor = 8;
constexpr int64_t kOperationsOfPart = 1 << 15;  // fewer are not worth another thread
constexpr int64_t kMostColumns = 8;             // more are solved for together, by torch's BLAS

const char* const kName = "slogdet_solve";

Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype) {
  return empty_tensor(sizes, dtype, aoti_torch_device_type_cpu(), 0);
}

// body(V{}) with the C++ type of a dtype.
template <typename Body>
void with_type(Dtype dtype, const Body& body) {
  switch (dtype) {
    case Dtype::kFloat:
      return body(float{});
    case Dtype::kDouble:
      return body(double{});
    case Dtype::kComplexFloat:
      return body(Complex<float>{0, 0});
    default:
      return body(Complex<double>{0, 0});
  }
}

// body(begin, end) over the matrices, on torch's threads.
template <typename Body>
void for_matrices(int64_t batch, int64_t operations, const Body& body) {
  const int64_t grain = std::max<int64_t>(1, kOperationsOfPart / std::max<int64_t>(operations, 1));
  parallel_parts(batch, grain, const_cast<Body*>(&body),
                 [](void* context, int64_t begin, int64_t end) {
                   (*static_cast<const Body*>(context))(begin, end);
                 });
}

// ---- torch's operators that the stable interface has no function for

template <typename... Arguments>
Tensor call_torch(const char* name, const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(Arguments)> stack{torch::stable::detail::from(arguments)...};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}
Tensor solve_triangular(const Tensor& M, const Tensor& X, bool upper, bool is_unit) {
  return call_torch("aten::linalg_solve_triangular", M, X, upper, true, is_unit);
}

// ---- checks

void check_wide(const char* name, const Tensor& A) {
  check_matrices(name, "A", A);
  check(!is_half(A.scalar_type()), name,
        ": expected A of dtype float32, float64, complex64 or complex128, got ",
        dtype_text(A.scalar_type()), "; convert it first, e.g. A.to(torch.float32)");
}

void check_factors(const char* name, const Tensor& A, const Tensor& factors,
                   const Tensor& integers) {
  check_wide(name, A);
  check_matches(name, "factors", factors, A, 0);
  check_integers(name, "integers", integers, A, count_of_factor_integers(order(A)));
}

// ---- the operators

// Sign and log|det A|, and the factors. Nothing is kept of a matrix whose determinant is 0.
std::tuple<Tensor, Tensor, Tensor, Tensor> slogdet_factor(const Tensor& A) {
  check_wide(kName, A);
  const ScalarType dtype = A.scalar_type();
  const int64_t n = order(A), batch = batch_size(A);
  std::vector<int64_t> sizes = leading_sizes(A, 2);
  Tensor sign = empty(sizes, dtype), logabsdet = empty(sizes, real_dtype(dtype));
  sizes.push_back(count_of_factor_integers(n));
  Tensor factors = empty(leading_sizes(A, 0), dtype), integers = empty(sizes, ScalarType::Int);
  if (n == 0) {
    torch::stable::fill_(integers, 0.0);
    return {torch::stable::fill_(sign, 1.0), torch::stable::fill_(logabsdet, 0.0), factors,
            integers};
  }
  if (batch == 0) {
    return {sign, logabsdet, factors, integers};
  }
  auto* const numbers = static_cast<int32_t*>(integers.mutable_data_ptr());
  const bool is_complex = dtype != real_dtype(dtype);
  const bool is_scalar = n <= (is_complex ? kLargestComplexScalarFactor : kLargestScalarFactor);
  Problem problem = {.op = is_scalar ? Op::kSlogdet : Op::kSlogdetFactor,
                     .n = n,
                     .batch = batch,
                     .A = batch_view(A, 2)};
  problem.determinant = sign.mutable_data_ptr();
  problem.logabsdet = logabsdet.mutable_data_ptr();
  if (!is_scalar) {
    problem.out = factors.mutable_data_ptr();
    problem.integers = numbers;
  }
  run_batch(problem, kernel_dtype(A), torch::stable::get_num_threads());
  if (is_scalar) {
    with_type(kernel_dtype(A), [&](auto type) {
      using V = decltype(type);
      V* const lu = static_cast<V*>(factors.mutable_data_ptr());
      const V* const signs = static_cast<const V*>(sign.const_data_ptr());
      for_matrices(batch, n * n * n, [&](int64_t begin, int64_t end) {
        for (int64_t b = begin; b < end; ++b) {
          factor(problem.A, b, n, lu + b * n * n, numbers);
          if (component_size(signs[b]) == 0) {
            KeptFactors<int32_t>(numbers, n, b).sign() = kNotKept;
          }
        }
      });
    });
  }
  return {sign, logabsdet, factors, integers};
}

// grad conj(A^-T). The size classes' own kernels are faster than those factors, where both exist.
Tensor backward(const Tensor& grad, const Tensor& A, const Tensor& factors,
                const Tensor& integers) {
  check_factors("slogdet_backward", A, factors, integers);
  return order(A) > kLargestRows
             ? call_torch("torchdet::_slogdet_backward_kept", grad, A, factors, integers)
             : call_torch("torchdet::slogdet_backward", grad, A);
}

// What is done to columns of B: of A^-1 B, or of A^-H B.
template <bool kAdjoint>
class Solver {
 public:
  Solver(const Tensor& A, const Tensor& B, const Tensor& factors, const Tensor& integers)
      : dtype_(kernel_dtype(A)),
        n_(order(A)),
        batch_(batch_size(A)),
        columns_(B.size(-1)),
        factors_(as_contiguous(factors)),
        integers_(as_contiguous(integers)) {}

  // X of a B that is not empty.
  Tensor solve(const Tensor& B) const {
    Tensor X = empty(leading_sizes(B, 0), B.scalar_type());
    if (columns_ <= kMostColumns) {
      for_columns(B, X, [](const auto& system, auto* x, auto* y, auto* space, int64_t) {
        const int32_t e = system.enter(x, space);
        system.solve(space);
        system.leave(space, e, y);
      });
      return X;
    }
    std::vector<int32_t> exponents(batch_ * columns_);
    for_columns(B, X, [&](const auto& system, auto* x, auto* y, auto*, int64_t column) {
      exponents[column] = system.enter(x, y);
    });
    const Tensor M = kAdjoint ? call_torch("aten::adjoint", factors_) : factors_;
    const Tensor Y = solve_triangular(M, X, false, !kAdjoint);
    for_columns(solve_triangular(M, Y, true, kAdjoint), X,
                [&](const auto& system, auto* x, auto* y, auto*, int64_t column) {
                  system.leave(x, exponents[column], y);
                });
    return X;
  }

 private:
  const Dtype dtype_;
  const int64_t n_, batch_, columns_;
  const Tensor factors_, integers_;

  // step(system of the matrix, a column of `from`, the same of `to`, space for another one, which
  // column of all it is).
  template <typename Step>
  void for_columns(const Tensor& from, Tensor& to, const Step& step) const {
    with_type(dtype_, [&](auto type) {
      using V = decltype(type);
      const BatchView view = batch_view(from, 2);
      const V* const factors = static_cast<const V*>(factors_.const_data_ptr());
      const auto* const integers = static_cast<const int32_t*>(integers_.const_data_ptr());
      V* const out = static_cast<V*>(to.mutable_data_ptr());
      for_matrices(batch_, n_ * n_ * columns_, [&](int64_t begin, int64_t end) {
        std::vector<V> columns(3 * n_, zero<V>());
        std::vector<int32_t> seen(n_);
        V *const x = columns.data(), *const y = x + n_;
        for (int64_t b = begin; b < end; ++b) {
          const FactoredSystem<kAdjoint, V> system(factors, integers, n_, b, seen.data());
          const V* const first = static_cast<const V*>(view.data) + view.offset(b);
          for (int64_t c = 0; c < columns_; ++c) {
            for (int64_t i = 0; i < n_; ++i) {
              x[i] = first[i * view.row_stride + c * view.column_stride];
            }
            step(system, x, y, y + n_, b * columns_ + c);
            for (int64_t i = 0; i < n_; ++i) {
              out[(b * n_ + i) * columns_ + c] = y[i];
            }
          }
        }
      });
    });
  }
};

template <bool kAdjoint>
Tensor solve(const Tensor& A, const Tensor& B, const Tensor& factors, const Tensor& integers) {
  check_factors(kName, A, factors, integers);
  bool same = B.dim() == A.dim();
  for (int64_t d = 0; same && d < A.dim() - 1; ++d) {
    same = B.size(d) == A.size(d);
  }
  check(same, kName, ": expected B of shape (*, n, k) for A of shape ", ShapeOf{A}, ", got ",
        ShapeOf{B}, "; expand or reshape it first");
  check_dtype_and_device(kName, "B", B, A);
  return B.numel() == 0 ? empty(leading_sizes(B, 0), B.scalar_type())
                        : Solver<kAdjoint>(A, B, factors, integers).solve(B);
}

}  // namespace
}  // namespace torchdet

STABLE_TORCH_LIBRARY_IMPL(torchdet, CPU, m) {
  m.impl("_slogdet_factor", TORCH_BOX(&torchdet::slogdet_factor));
  m.impl("_slogdet_backward_factored", TORCH_BOX(&torchdet::backward));
  m.impl("_solve_factored", TORCH_BOX(&torchdet::solve<false>));
  m.impl("_solve_adjoint_factored", TORCH_BOX(&torchdet::solve<true>));
}
