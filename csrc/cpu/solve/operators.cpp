// The operators of solve.h on the CPU.
#include <array>

#include <torch/csrc/stable/library.h>

#include "solve.h"

#include "../../tensors.h"
#include "../dispatch/threads.h"

namespace torchdet {
namespace {

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

template <typename V>
Strided<V> matrix_of(const BatchView& view, int64_t b) {
  return {static_cast<const V*>(view.data) + view.offset(b), view.row_stride, view.column_stride};
}

// ---- torch's operators that the stable interface has no function for

template <typename... Arguments>
Tensor call_torch(const char* name, const char* overload, const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(Arguments)> stack{
      torch::stable::detail::from(arguments)...};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}
// Autocast, which would round the factors, does not know the overload with an output.
Tensor product(const Tensor& X, const Tensor& Y) {
  return call_torch("aten::matmul", "out", X, Y, empty(leading_sizes(Y, 0), Y.scalar_type()));
}
Tensor triangular(const Tensor& M, const Tensor& X, bool upper, bool unit) {
  return call_torch("aten::linalg_solve_triangular", "", M, X, upper, true, unit);
}

// ---- A X = B or A^H X = B

struct System {
  const Tensor &A, &B;
  Tensor factors, integers;  // contiguous
  int64_t n, columns, batch;
  bool has_factors;

  System(const Tensor& A_, const Tensor& B_, const Tensor& factors_, const Tensor& integers_)
      : A(A_),
        B(B_),
        factors(as_contiguous(factors_)),
        integers(as_contiguous(integers_)),
        n(order(A)),
        columns(B.size(-1)),
        batch(batch_size(A)),
        has_factors(integers.size(-1) > 0) {}
  const int32_t* integer_data() const {
    return static_cast<const int32_t*>(integers.const_data_ptr());
  }

  // work(b, column of B or X, to be read; the same column of `out`, to be written) for all of them,
  // and n numbers of space twice.
  template <typename V, typename Work>
  void for_columns(const Tensor& from, const Tensor& out, const Work& work) const {
    const BatchView view = batch_view(from, 2);
    V* const to = static_cast<V*>(out.mutable_data_ptr());
    for_matrices(batch, n * n * columns, [&](int64_t begin, int64_t end) {
      std::vector<V> space(4 * n, zero<V>());
      V *const x = space.data(), *const y = x + n;
      for (int64_t b = begin; b < end; ++b) {
        const Strided<V> B = matrix_of<V>(view, b);
        for (int64_t c = 0; c < columns; ++c) {
          for (int64_t i = 0; i < n; ++i) {
            x[i] = B.data[i * B.row_stride + c * B.column_stride];
          }
          work(b, x, y, y + n);
          for (int64_t i = 0; i < n; ++i) {
            to[(b * n + i) * columns + c] = y[i];
          }
        }
      }
    });
  }

  template <bool kAdjoint, typename V>
  void by_inverse(const Tensor& out) const {
    const BatchView view = batch_view(A, 2);
    const V* const inverse = static_cast<const V*>(factors.const_data_ptr());
    for_columns<V>(B, out, [&](int64_t b, V* from, V* to, V* space) {
      solve_by_inverse<kAdjoint>(matrix_of<V>(view, b), inverse + b * n * n, n, from, to, space,
                                 space + n);
    });
  }
  // What is done to each column, with the system of its matrix.
  template <bool kAdjoint, typename V, typename Work>
  void by_factors(const Tensor& from, const Tensor& out, const Work& work) const {
    const V* const lu = static_cast<const V*>(factors.const_data_ptr());
    for_columns<V>(from, out, [&](int64_t b, V* x, V* y, V* space) {
      const FactoredSystem<kAdjoint, V> system(lu, integer_data(), n, b,
                                               reinterpret_cast<int32_t*>(space));
      work(system, x, y, space + n);
    });
  }

  template <bool kAdjoint>
  Tensor solve() const {
    Tensor out = empty(leading_sizes(B, 0), B.scalar_type());
    if (out.numel() == 0) {
      return out;
    }
    const bool together = columns > kMostColumns;
    if (together && !has_factors) {
      const Tensor M = kAdjoint ? call_torch("aten::adjoint", "", A) : A;
      const Tensor inverse = kAdjoint ? factors : call_torch("aten::adjoint", "", factors);
      out = product(inverse, B);
      const Tensor residual = torch::stable::subtract(B, product(M, out));
      const Tensor correction = product(inverse, residual);
      with_type(kernel_dtype(A), [&](auto type) {
        using V = decltype(type);
        V* const x = static_cast<V*>(out.mutable_data_ptr());
        const V* const change = static_cast<const V*>(correction.const_data_ptr());
        for (int64_t i = 0; i < out.numel(); ++i) {
          x[i] = is_finite(change[i]) ? x[i] + change[i] : x[i];
        }
      });
      return out;
    }
    with_type(kernel_dtype(A), [&](auto type) {
      using V = decltype(type);
      if (!has_factors) {
        by_inverse<kAdjoint, V>(out);
        return;
      }
      by_factors<kAdjoint, V>(B, out, [&](const auto& system, V* x, V* y, V* space) {
        system.enter(x, together ? y : space);
        if (!together) {
          system.solve(space);
          system.leave(space, y);
        }
      });
      if (!together) {
        return;
      }
      Tensor X = out;
      if (kAdjoint) {
        const Tensor adjoint = call_torch("aten::adjoint", "", factors);
        X = triangular(adjoint, triangular(adjoint, X, false, false), true, true);
      } else {
        X = triangular(factors, triangular(factors, X, false, true), true, false);
      }
      by_factors<kAdjoint, V>(
          X, out, [&](const auto& system, V* x, V* y, V*) { system.leave(x, y); });
    });
    return out;
  }
};

void check_factors(const char* name, const Tensor& A, const Tensor& factors,
                   const Tensor& integers) {
  check_factored(name, A);
  check_matches(name, "kept", factors, A, 0);
  const int64_t count = 3 * order(A) + 2;
  const bool has_factors = integers.dim() > 0 && integers.size(-1) == count;
  check_integers(name, "integers", integers, A, has_factors ? count : 0);
}

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
  return System(A, B, factors, integers).solve<kAdjoint>();
}

// grad conj(A^-T) from the inverse; from factors it is _slogdet_backward_kept.
Tensor backward(const Tensor& grad, const Tensor& A, const Tensor& factors,
                const Tensor& integers) {
  const char* const name = "slogdet_backward";
  check_factors(name, A, factors, integers);
  check_matches(name, "grad", grad, A, 2);
  if (integers.size(-1) > 0) {
    return call_torch("torchdet::_slogdet_backward_kept", "", grad, A, factors, integers);
  }
  const Tensor inverse = as_contiguous(factors);
  Tensor out = empty(leading_sizes(A, 0), A.scalar_type());
  const int64_t numbers = order(A) * order(A);
  if (out.numel() == 0) {
    return out;
  }
  const BatchView factor = batch_view(grad, 0);
  with_type(kernel_dtype(A), [&](auto type) {
    using V = decltype(type);
    const V* const from = static_cast<const V*>(inverse.const_data_ptr());
    V* const to = static_cast<V*>(out.mutable_data_ptr());
    for_matrices(batch_size(A), numbers, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        const V g = static_cast<const V*>(factor.data)[factor.offset(b)];
        for (int64_t i = b * numbers; i < (b + 1) * numbers; ++i) {
          to[i] = g * from[i];
        }
      }
    });
  });
  return out;
}

}  // namespace
}  // namespace torchdet

STABLE_TORCH_LIBRARY_IMPL(torchdet, CPU, m) {
  m.impl("_slogdet_backward_factored", TORCH_BOX(&torchdet::backward));
  m.impl("_solve_factored", TORCH_BOX(&torchdet::solve<false>));
  m.impl("_solve_adjoint_factored", TORCH_BOX(&torchdet::solve<true>));
}
