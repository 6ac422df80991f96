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

std::tuple<Tensor, Tensor> logsum_shares(const Tensor& terms, const Tensor& exponent,
                                         const Tensor& factors) {
  check_shares(terms, exponent, factors);
  const std::vector<int64_t> sizes = leading_sizes(terms, 0);
  Tensor share = empty(sizes, exponent.scalar_type()),
         of_zero = empty(sizes, exponent.scalar_type());
  with_type(terms.scalar_type(), [&](auto type) {
    using V = decltype(type);
    using R = typename RealType<V>::Real;
    const Tensor m = as_contiguous(factors);
    const int64_t S = m.size(-1);
    const V* const numbers = static_cast<const V*>(m.const_data_ptr());
    R* const shares = static_cast<R*>(share.mutable_data_ptr());
    R* const of_zeros = static_cast<R*>(of_zero.mutable_data_ptr());
    for_sums<V>(terms, exponent, [&](const Logsum<V>& sum, int64_t b, int64_t count) {
      const int64_t first = b * count;
      sum.shares(numbers + first * S, S, shares + first, of_zeros + first, count);
    });
  });
  return {share, of_zero};
}

// Mantissa and exponent with a share of the latter in the former.
std::tuple<Tensor, Tensor> det_relative(const Tensor& A, const Tensor& mantissa,
                                        const Tensor& exponent, const Tensor& share,
                                        const Tensor& share_of_zero) {
  const char* const name = "det_relative";
  check_matrices(name, "A", A);
  check_matches(name, "mantissa", mantissa, A, 2);
  for (const Tensor& x : {exponent, share, share_of_zero}) {
    check_exponents(name, x, A);
  }
  const ScalarType dtype = A.scalar_type();
  if (is_half(dtype)) {
    const auto [relative, own] =
        det_relative(in_float32(A), in_float32(mantissa), exponent, share, share_of_zero);
    return {torch::stable::to(relative, dtype), own};
  }
  const std::vector<int64_t> sizes = leading_sizes(A, 2);
  Tensor relative = empty(sizes, dtype), own = empty(sizes, exponent.scalar_type());
  with_type(dtype, [&](auto type) {
    using V = decltype(type);
    using R = typename RealType<V>::Real;
    const Tensor inputs[] = {as_contiguous(mantissa), as_contiguous(exponent), as_contiguous(share),
                             as_contiguous(share_of_zero)};
    const V* const m = static_cast<const V*>(inputs[0].const_data_ptr());
    const R* const e = static_cast<const R*>(inputs[1].const_data_ptr());
    const R* const shares = static_cast<const R*>(inputs[2].const_data_ptr());
    const R* const of_zeros = static_cast<const R*>(inputs[3].const_data_ptr());
    V* const to = static_cast<V*>(relative.mutable_data_ptr());
    R* const rest = static_cast<R*>(own.mutable_data_ptr());
    for (int64_t i = 0; i < relative.numel(); ++i) {
      to[i] = m[i];
      rest[i] = e[i];
      Logsum<V>::take_share(to[i], rest[i], shares[i], of_zeros[i]);
    }
  });
  return {relative, own};
}

}  // namespace
}  // namespace torchdet

STABLE_TORCH_LIBRARY_IMPL(torchdet, CPU, m) {
  m.impl("_logsum", TORCH_BOX(&torchdet::logsum));
  m.impl("_logsum_ratios", TORCH_BOX(&torchdet::logsum_ratios));
  m.impl("_det_relative", TORCH_BOX(&torchdet::det_relative));
  m.impl("_logsum_shares", TORCH_BOX(&torchdet::logsum_shares));
}
