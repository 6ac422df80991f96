// The operators of sums on the CPU: those of logsum.h, and what gives terms other exponents.
#include <algorithm>

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

Tensor logsum_shares(const Tensor& terms, const Tensor& exponent, const Tensor& freedom) {
  check_shares(terms, exponent, freedom);
  Tensor share = empty(leading_sizes(freedom, 0), exponent.scalar_type());
  with_type(terms.scalar_type(), [&](auto type) {
    using V = decltype(type);
    using R = typename RealType<V>::Real;
    const Tensor contiguous = as_contiguous(freedom);
    const int64_t S = contiguous.size(-1);
    const R* const numbers = static_cast<const R*>(contiguous.const_data_ptr());
    R* const shares = static_cast<R*>(share.mutable_data_ptr());
    for_sums<V>(terms, exponent, [&](const Logsum<V>& sum, int64_t b, int64_t count) {
      const int64_t first = b * count * S;
      sum.shares(numbers + first, S, shares + first, count);
    });
  });
  return share;
}

// 0 for a determinant that is not zero, 1 for one that is, 2 where its first and second derivatives
// are zero too: for a matrix of zeros from order 3 on. These are the freedoms of Logsum::shares.
Tensor det_freedom(const Tensor& A, const Tensor& mantissa) {
  const char* const name = "det_freedom";
  check_matrices(name, "A", A);
  check_matches(name, "mantissa", mantissa, A, 2);
  const ScalarType dtype = A.scalar_type();
  if (is_half(dtype)) {
    return det_freedom(in_float32(A), in_float32(mantissa));
  }
  Tensor freedom = empty(leading_sizes(A, 2), real_dtype(dtype));
  with_type(dtype, [&](auto type) {
    using V = decltype(type);
    const Tensor m = as_contiguous(mantissa);
    const V* const numbers = static_cast<const V*>(m.const_data_ptr());
    auto* const out = static_cast<typename RealType<V>::Real*>(freedom.mutable_data_ptr());
    const int64_t count = freedom.numel(), n = A.size(-1);
    std::transform(numbers, numbers + count, out, [](V x) { return x == V(0) ? 1 : 0; });
    if (n < 3 || std::find(out, out + count, 1) == out + count) {
      return;
    }
    const Tensor entries = as_contiguous(A);
    const V* const a = static_cast<const V*>(entries.const_data_ptr());
    for (int64_t i = 0; i < count; ++i) {
      const V* const first = a + i * n * n;
      const auto is_zero = [](V x) { return x == V(0); };
      out[i] = out[i] == 1 && std::all_of(first, first + n * n, is_zero) ? 2 : out[i];
    }
  });
  return freedom;
}

// Mantissa and exponent with a share of the latter in the former.
std::tuple<Tensor, Tensor> det_relative(const Tensor& A, const Tensor& mantissa,
                                        const Tensor& exponent, const Tensor& share) {
  const char* const name = "det_relative";
  check_matrices(name, "A", A);
  check_matches(name, "mantissa", mantissa, A, 2);
  for (const Tensor& x : {exponent, share}) {
    check_exponents(name, x, A);
  }
  const ScalarType dtype = A.scalar_type();
  if (is_half(dtype)) {
    const auto [relative, own] = det_relative(in_float32(A), in_float32(mantissa), exponent, share);
    return {torch::stable::to(relative, dtype), own};
  }
  const std::vector<int64_t> sizes = leading_sizes(A, 2);
  Tensor relative = empty(sizes, dtype), own = empty(sizes, exponent.scalar_type());
  with_type(dtype, [&](auto type) {
    using V = decltype(type);
    using R = typename RealType<V>::Real;
    const Tensor inputs[] = {as_contiguous(mantissa), as_contiguous(exponent),
                             as_contiguous(share)};
    const V* const m = static_cast<const V*>(inputs[0].const_data_ptr());
    const R* const e = static_cast<const R*>(inputs[1].const_data_ptr());
    const R* const shares = static_cast<const R*>(inputs[2].const_data_ptr());
    V* const to = static_cast<V*>(relative.mutable_data_ptr());
    R* const rest = static_cast<R*>(own.mutable_data_ptr());
    for (int64_t i = 0; i < relative.numel(); ++i) {
      to[i] = m[i];
      rest[i] = e[i];
      Logsum<V>::take_share(to[i], rest[i], shares[i]);
    }
  });
  return {relative, own};
}

}  // namespace
}  // namespace torchdet

STABLE_TORCH_LIBRARY_IMPL(torchdet, CPU, m) {
  m.impl("_logsum", TORCH_BOX(&torchdet::logsum));
  m.impl("_logsum_ratios", TORCH_BOX(&torchdet::logsum_ratios));
  m.impl("_det_freedom", TORCH_BOX(&torchdet::det_freedom));
  m.impl("_det_relative", TORCH_BOX(&torchdet::det_relative));
  m.impl("_logsum_shares", TORCH_BOX(&torchdet::logsum_shares));
}
