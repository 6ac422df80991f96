// Every argument check of the operators and its error text, used by all backends. A message names
// the operator, what was expected, what came and, where there is one, the remedy. The texts and
// their order are those of torchdet/_reference.py and _reference_kept.py (tests/test_errors.py).
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace torchdet {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Printed as the shape of x, without its last `dropped` dimensions, and only then looked at.
struct ShapeOf {
  const Tensor& x;
  int64_t dropped = 0;
};

// Messages are strings and not streams: where another library of the process has brought a C++
// library of its own, a stream may meet the other one's locale, and crashes at the first number.
inline std::string text_of(const char* text) {
  return text;
}
inline std::string text_of(int64_t number) {
  return std::to_string(number);
}
inline std::string text_of(const ShapeOf& shape) {
  const int64_t dims = shape.x.dim() - shape.dropped;
  std::string text = "(";
  for (int64_t d = 0; d < dims; ++d) {
    text += (d > 0 ? ", " : "") + text_of(shape.x.size(d));
  }
  return text + (dims == 1 ? ",)" : ")");
}

// Printed as the device of x, as torch prints it; device() names CPUs and NVIDIA's GPUs.
struct DeviceOf {
  const Tensor& x;
};
inline std::string text_of(const DeviceOf& device) {
  return device.x.is_cuda() ? "cuda:" + text_of(int64_t{device.x.get_device_index()}) : "cpu";
}

template <typename... Parts>
void check(bool condition, const Parts&... parts) {
  if (!condition) {
    throw std::runtime_error((std::string() + ... + text_of(parts)));
  }
}

// Of a C function of torch, which prints what went wrong. Torch's macro throws by way of a stream.
inline void check_torch(const char* function, int32_t error) {
  check(error == 0, function, " failed in torch");
}

inline const char* dtype_text(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Bool:
      return "bool";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::ComplexHalf:
      return "complex32";
    case ScalarType::ComplexFloat:
      return "complex64";
    case ScalarType::ComplexDouble:
      return "complex128";
    case ScalarType::UInt16:
      return "uint16";
    case ScalarType::UInt32:
      return "uint32";
    case ScalarType::UInt64:
      return "uint64";
    case ScalarType::Float8_e5m2:
      return "float8_e5m2";
    case ScalarType::Float8_e4m3fn:
      return "float8_e4m3fn";
    case ScalarType::Float8_e5m2fnuz:
      return "float8_e5m2fnuz";
    case ScalarType::Float8_e4m3fnuz:
      return "float8_e4m3fnuz";
    default:
      return "another dtype";
  }
}

inline bool is_half(ScalarType dtype) {
  return dtype == ScalarType::Half || dtype == ScalarType::BFloat16;
}

inline void check_matrices(const char* op, const char* name, const Tensor& A) {
  check(A.dim() >= 2 && A.size(-1) == A.size(-2), op, ": expected ", name,
        " of shape (*, n, n), got ", ShapeOf{A});
  const ScalarType dtype = A.scalar_type();
  const bool supported = is_half(dtype) || dtype == ScalarType::Float ||
                         dtype == ScalarType::Double || dtype == ScalarType::ComplexFloat ||
                         dtype == ScalarType::ComplexDouble;
  check(supported, op, ": expected ", name,
        " of dtype float16, bfloat16, float32, float64, complex64 or complex128, got ",
        dtype_text(dtype), "; convert it first, e.g. A.to(torch.",
        dtype == ScalarType::ComplexHalf ? "complex64" : "float64", ")");
}

inline void check_dtype_and_device(const char* op, const char* name, const Tensor& X,
                                   const Tensor& A) {
  check(X.scalar_type() == A.scalar_type(), op, ": expected ", name, " of the dtype of A, ",
        dtype_text(A.scalar_type()), ", got ", dtype_text(X.scalar_type()),
        "; convert it first, e.g. ", name, ".to(A.dtype)");
  check(X.device() == A.device(), op, ": expected ", name, " on the device of A, ", DeviceOf{A},
        ", got ", DeviceOf{X}, "; move it first, e.g. ", name, ".to(A.device)");
}

// X (grad, Z or what is kept) must have the shape of A without its last `dropped` dimensions, and
// the dtype and the device of A.
inline void check_matches(const char* op, const char* name, const Tensor& X, const Tensor& A,
                          int64_t dropped) {
  bool same = X.dim() == A.dim() - dropped;
  for (int64_t d = 0; same && d < X.dim(); ++d) {
    same = X.size(d) == A.size(d);
  }
  check(same, op, ": expected ", name, " of shape ", ShapeOf{A, dropped}, ", got ", ShapeOf{X},
        "; expand or reshape it first");
  check_dtype_and_device(op, name, X, A);
}

// X (directions) must have the shape (*, d, n, n) where A has (*, n, n), and dtype and device of A.
inline void check_directions(const char* op, const char* name, const Tensor& X, const Tensor& A) {
  bool same = X.dim() == A.dim() + 1;
  for (int64_t d = 0; same && d < A.dim() - 2; ++d) {
    same = X.size(d) == A.size(d);
  }
  same = same && X.size(-2) == A.size(-2) && X.size(-1) == A.size(-1);
  check(same, op, ": expected ", name, " of shape (*, d, n, n) for A of shape ", ShapeOf{A},
        ", got ", ShapeOf{X}, "; expand or reshape it first");
  check_dtype_and_device(op, name, X, A);
}

// One number of the real dtype for each matrix of A.
inline void check_exponents(const char* op, const Tensor& X, const Tensor& A) {
  const char* const remedy = "; pass those that det_frexp returned";
  bool same = X.dim() == A.dim() - 2;
  for (int64_t d = 0; same && d < X.dim(); ++d) {
    same = X.size(d) == A.size(d);
  }
  check(same, op, ": expected exponent of shape ", ShapeOf{A, 2}, ", got ", ShapeOf{X}, remedy);
  const ScalarType dtype = A.scalar_type();
  const bool is_wide = dtype == ScalarType::Double || dtype == ScalarType::ComplexDouble;
  const ScalarType expected = is_wide ? ScalarType::Double : ScalarType::Float;
  check(X.scalar_type() == expected, op, ": expected exponent of dtype ", dtype_text(expected),
        ", got ", dtype_text(X.scalar_type()), remedy);
  check(X.device() == A.device(), op, ": expected exponent on the device of A, ", DeviceOf{A},
        ", got ", DeviceOf{X}, "; move it first, e.g. exponent.to(A.device)");
}

// Terms of sums, and an exponent for each.
inline void check_terms(const char* op, const Tensor& terms, const Tensor& exponent) {
  check(terms.dim() >= 1, op, ": expected terms of shape (*, K), got ", ShapeOf{terms});
  const ScalarType dtype = terms.scalar_type();
  const bool is_wide = dtype == ScalarType::Double || dtype == ScalarType::ComplexDouble;
  check(is_wide || dtype == ScalarType::Float || dtype == ScalarType::ComplexFloat, op,
        ": expected terms of dtype float32, float64, complex64 or complex128, got ",
        dtype_text(dtype));
  bool same = exponent.dim() == terms.dim();
  for (int64_t d = 0; same && d < terms.dim(); ++d) {
    same = exponent.size(d) == terms.size(d);
  }
  check(same, op, ": expected exponent of shape ", ShapeOf{terms}, ", got ", ShapeOf{exponent});
  const ScalarType expected = is_wide ? ScalarType::Double : ScalarType::Float;
  check(exponent.scalar_type() == expected, op, ": expected exponent of dtype ",
        dtype_text(expected), ", got ", dtype_text(exponent.scalar_type()));
  check(exponent.device() == terms.device(), op, ": expected exponent on the device of terms, ",
        DeviceOf{terms}, ", got ", DeviceOf{exponent});
}

// terms have exponents, and freedom numbers for S >= 1 factors of each.
inline void check_shares(const Tensor& terms, const Tensor& exponent, const Tensor& freedom) {
  const char* const op = "logsum_shares";
  check_terms(op, terms, exponent);
  bool same = freedom.dim() == terms.dim() + 1 && freedom.size(-1) > 0;
  for (int64_t d = 0; same && d < terms.dim(); ++d) {
    same = freedom.size(d) == terms.size(d);
  }
  check(same, op, ": expected freedom of shape (*, K, S) with S >= 1 for terms of shape ",
        ShapeOf{terms}, ", got ", ShapeOf{freedom});
  check(freedom.scalar_type() == exponent.scalar_type() && freedom.device() == terms.device(), op,
        ": expected freedom of the dtype and on the device of exponent, ",
        dtype_text(exponent.scalar_type()), " on ", DeviceOf{terms}, ", got ",
        dtype_text(freedom.scalar_type()), " on ", DeviceOf{freedom});
}

// X has `count` integers for each matrix of A.
inline void check_integers(const char* op, const char* name, const Tensor& X, const Tensor& A,
                           int64_t count) {
  bool same = X.dim() == A.dim() - 1 && X.size(-1) == count;
  for (int64_t d = 0; same && d < X.dim() - 1; ++d) {
    same = X.size(d) == A.size(d);
  }
  check(same, op, ": expected ", name, ", ", count, " for each matrix of A ", ShapeOf{A}, ", got ",
        ShapeOf{X}, "; pass those that the forward pass returned");
  check(X.scalar_type() == ScalarType::Int, op, ": expected ", name, " of dtype int32, got ",
        dtype_text(X.scalar_type()), "; pass those that the forward pass returned");
  check(X.device() == A.device(), op, ": expected ", name, " on the device of A, ", DeviceOf{A},
        ", got ", DeviceOf{X}, "; move it first, e.g. ", name, ".to(A.device)");
}

}  // namespace torchdet
