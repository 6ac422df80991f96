// From the mantissa and exponent of a determinant, and from cofactors, to what the operators
// return: the same for every owner of a matrix.
#pragma once

#include "device.h"

#include "../math/logarithm.h"
#include "../math/scaled.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

constexpr int kWarpSize = 32;

// Bytes that are read and written at once; sixteen are the widest access to memory. Made of what a
// register holds: a word of bytes would be taken apart byte by byte.
template <int kBytes>
struct alignas(kBytes) Word {
  uint32_t parts[kBytes / 4];
};
using Wide = Word<16>;

// Where a kernel keeps what its threads share.
enum class Memory { kShared, kGlobal };

template <typename V>
TORCHDET_DEVICE V shuffle_number(V x, int source) {
  if constexpr (kIsComplex<V>) {
    return {shuffle(x.re, source), shuffle(x.im, source)};
  } else {
    return shuffle(x, source);
  }
}

// sum + 0 x: NaN where x is not finite.
template <typename R>
TORCHDET_DEVICE R add_nothing(R x, R sum) {
  return fma(x, R(0), sum);
}
template <typename R>
TORCHDET_DEVICE R add_nothing(Complex<R> x, R sum) {
  return fma(x.re, R(0), fma(x.im, R(0), sum));
}

// kDet and kSlogdet.
template <typename V>
TORCHDET_DEVICE void write_determinant(const Problem& p, int64_t b, Scaled<V> d) {
  if (p.op == Op::kDet) {
    static_cast<V*>(p.determinant)[b] = scale_pow2(d.mantissa, d.exponent);
  } else {
    const SignAndLog<V> result = sign_and_log(d);
    static_cast<V*>(p.determinant)[b] = result.sign;
    static_cast<RealOf<V>*>(p.logabsdet)[b] = result.log;
  }
}

// Of kDetBackward and kSlogdetBackward; 1 where none is given.
template <typename V>
TORCHDET_DEVICE V gradient(const Problem& p, int64_t b) {
  return p.other.data == nullptr ? one<V>()
                                 : static_cast<const V*>(p.other.data)[p.other.offset(b)];
}

// What multiplies C(B) as a whole, for B with det(B) = d and det(A) = 2^total det(B): 2^total for
// kCofactor; conj(grad) 2^total for kDetBackward, since grad conj(C) = conj(conj(grad) C);
// conj(grad) / d for kSlogdetBackward, since A^-T = C(A) / det(A).
template <typename V>
TORCHDET_DEVICE Scaled<V> gradient_factor(Op op, V grad, Scaled<V> d, IntegerOf<V> total) {
  if (op == Op::kCofactor) {
    return {one<V>(), total};
  }
  Scaled<V> factor = normalise(conj(grad), total);
  if (op == Op::kSlogdetBackward) {
    factor.mantissa = factor.mantissa * reciprocal(d.mantissa);
    factor.exponent = factor.exponent - d.exponent - total;
  }
  return factor;
}
template <typename V>
TORCHDET_DEVICE Scaled<V> gradient_factor(const Problem& p, int64_t b, Scaled<V> d,
                                          IntegerOf<V> total) {
  return gradient_factor(p.op, p.op == Op::kCofactor ? one<V>() : gradient<V>(p, b), d, total);
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
