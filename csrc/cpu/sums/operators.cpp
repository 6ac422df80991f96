// The operators of sums on the CPU: those of logsum.h, and what gives terms other exponents.
#include <torch/csrc/stable/library.h>

#include "logsum.h"

#include "../../tensors.h"
#include "../dispatch/threads.h"

namespace torchdet {
namespace {

constexpr int64_t kTermsOfPart = 1 << 12;  // fewer are not worth another thread

// body(Logsum, b) for every sum b.
template <typename V, typename Body>
void for_sums(const Tensor& terms, const Tensor& exponent, const Body& body) {
  using R = typename RealType<V>::Real;
  const int64_t count = terms.size(-1);
  const int64_t sums = count > 0 ? terms.numel() / count : 0;
  const Tensor t = as_contiguous(terms), e = as_contiguous(exponent);
  const V* const numbers = static_cast<const V*>(t.const_data_ptr());
  const R* const exponents = static_cast<const R*>(e.const_data_ptr());
  auto part = [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      body(Logsum<V>(numbers + b * count, exponents + b * count, count), b, count);
    }
  };
  const int64_t grain = std::max<int64_t>(1, kTermsOfPart / std::max<int64_t>(count, 1));
  parallel_parts(sums, grain, &part, [](void* context, int64_t begin, int64_t end) {
    (*static_cast<decltype(part)*>(context))(begin, end);
  });
}

// body(V{}) with the C++ type of a dtype.
template <typename Body>
void with_type(ScalarType dtype, const Body& body) {
  switch (dtype) {
    case ScalarType::Float:
      return body(float{});
    case ScalarType::Double:
      return body(double{});
    case ScalarType::ComplexFloat:
      return body(std::complex<float>{});
    default:
      return body(std::complex<double>{});
  }
}

Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype) {
  return empty_tensor(sizes, dtype, aoti_torch_device_type_cpu(), 0);
}

std::tuple<Tensor, Tensor> logsum(const Tensor& terms, const Tensor& exponent) {
  check_terms("logsum", terms, exponent);
  const ScalarType dtype = terms.scalar_type();
  const std::vector<int64_t> sizes = leading_sizes(terms, 1);
  Tensor sign = empty(sizes, dtype), logabs = empty(sizes, real_dtype(dtype));
  if (terms.size(-1) == 0) {
    torch::stable::fill_(sign, 0.0);
    torch::stable::fill_(logabs, -std::numeric_limits<double>::infinity());
    return {sign, logabs};
  }
  with_type(dtype, [&](auto type) {
    using V = decltype(type);
    V* const signs = static_cast<V*>(sign.mutable_data_ptr());
    auto* const logs = static_cast<typename RealType<V>::Real*>(logabs.mutable_data_ptr());
    for_sums<V>(terms, exponent, [&](const Logsum<V>& sum, int64_t b, int64_t) {
      signs[b] = sum.sign();
      logs[b] = sum.logarithm();
    });
  });
  return {sign, logabs};
}

Tensor logsum_ratios(const Tensor& terms, const Tensor& exponent) {
  check_terms("logsum_ratios", terms, exponent);
  Tensor ratios = empty(leading_sizes(terms, 0), terms.scalar_type());
  with_type(terms.scalar_type(), [&](auto type) {
    using V = decltype(type);
    V* const out = static_cast<V*>(ratios.mutable_data_ptr());
    for_sums<V>(terms, exponent, [&](const Logsum<V>& sum, int64_t b, int64_t count) {
      sum.ratios(out + b * count, count);
    });
  });
  return ratios;
}

Tensor logsum_excess(const Tensor& terms, const Tensor& exponent) {
  check_terms("logsum_excess", terms, exponent);
  Tensor excess = empty(leading_sizes(terms, 0), exponent.scalar_type());
  with_type(terms.scalar_type(), [&](auto type) {
    using V = decltype(type);
    auto* const out = static_cast<typename RealType<V>::Real*>(excess.mutable_data_ptr());
    for_sums<V>(terms, exponent, [&](const Logsum<V>& sum, int64_t b, int64_t count) {
      sum.excess(out + b * count, count);
    });
  });
  return excess;
}

// A copy of the mantissa, which autograd takes for a function of A.
Tensor det_relative(const Tensor& A, const Tensor& mantissa, const Tensor& exponent) {
  check_matrices("det_relative", "A", A);
  check_matches("det_relative", "mantissa", mantissa, A, 2);
  check_exponents("det_relative", exponent, A);
  Tensor copy = empty(leading_sizes(A, 2), A.scalar_type());
  return torch::stable::copy_(copy, mantissa);
}

}  // namespace
}  // namespace torchdet

STABLE_TORCH_LIBRARY_IMPL(torchdet, CPU, m) {
  m.impl("_logsum", TORCH_BOX(&torchdet::logsum));
  m.impl("_logsum_ratios", TORCH_BOX(&torchdet::logsum_ratios));
  m.impl("_det_relative", TORCH_BOX(&torchdet::det_relative));
  m.impl("_logsum_excess", TORCH_BOX(&torchdet::logsum_excess));
}
