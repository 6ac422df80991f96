// The lane: what every algorithm of math/ is written over.
//
// A lane type V is a number or a pack of numbers that all take the same path: float or double (one
// matrix per thread), a SIMD pack of them (one matrix per component, cpu/simd/vec.h), or Complex of
// either. Decisions that differ between the matrices of a pack are masks and selections, never
// branches, so each matrix gets the same arithmetic wherever it sits. This file defines the
// operations on plain floating-point numbers and on Complex, and everything built from them that
// knows the binary format: exponents and exact scaling by powers of two.
//
// TORCHDET_CAPABILITY names the instruction set a translation unit is compiled for. It is part of
// every name, so that the linker cannot merge code made for different processors.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "../tuning.h"

#ifndef TORCHDET_CAPABILITY
#define TORCHDET_CAPABILITY portable
#endif

// TORCHDET_COLD marks rare paths: calls on the CPU, but on a GPU a call would push the caller's
// registers to memory. So would an array with an index that is not known at compile time:
// TORCHDET_UNROLL stands before the loops over small arrays, TORCHDET_ROLL before loops that must
// stay loops.
#ifdef __CUDACC__
#define TORCHDET_UNROLL _Pragma("unroll")
#define TORCHDET_ROLL _Pragma("unroll 1")
#define TORCHDET_LANE __host__ __device__ __forceinline__
#define TORCHDET_COLD TORCHDET_LANE
#define TORCHDET_LANE_LAMBDA
#else
#define TORCHDET_UNROLL
#define TORCHDET_ROLL
#define TORCHDET_LANE [[gnu::always_inline]] inline
#define TORCHDET_COLD [[gnu::noinline]]
#define TORCHDET_LANE_LAMBDA __attribute__((always_inline))
#endif

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// Binary format of a scalar: x = +-1.f * 2^e with kMinExponent <= e <= kMaxExponent for normal
// numbers.
template <typename T>
struct Format;
template <>
struct Format<float> {
  using Integer = int32_t;
  static constexpr int kFractionBits = 23, kMaxExponent = 127, kMinExponent = -126;
};
template <>
struct Format<double> {
  using Integer = int64_t;
  static constexpr int kFractionBits = 52, kMaxExponent = 1023, kMinExponent = -1022;
};

// Exponent given to zero: below every true exponent, and far enough from the integer limits to be
// added to.
constexpr int kZeroExponent = -(1 << 24);

// Largest n for which per-matrix vectors are kept in arrays of fixed size; select.h has the
// table of classes.
constexpr int kMaxLaneOrder = 22;

// Entry (i, j) of a tile is number i * tile_stride(n) + j. From n = 16 on the stride is odd:
// columns then spread over all sets of the L1 cache, where a power of two would map them to a few.
constexpr int tile_stride(int n) {
  return n < 16 ? n : n | 1;
}
constexpr int tile_size(int n) {
  return n * tile_stride(n);
}

// The types that belong to a lane type: its real part, its pack of integers, the scalar it is made
// of.
template <typename V>
struct LaneTraits {
  using Real = V;
  using Integer = typename Format<V>::Integer;
  using Scalar = V;
  static constexpr int kWidth = 1;
  static constexpr bool kIsComplex = false;
};
template <std::integral T>
struct LaneTraits<T> {
  using Scalar = T;
};
template <typename V>
using RealOf = typename LaneTraits<V>::Real;
template <typename V>
using IntegerOf = typename LaneTraits<V>::Integer;
template <typename V>
using ScalarOf = typename LaneTraits<V>::Scalar;
template <typename V>
constexpr bool kIsComplex = LaneTraits<V>::kIsComplex;

// Whether an algorithm of order N is worth unrolled code.
template <int N, typename V>
constexpr bool kIsUnrolled = N <= (kIsComplex<V> ? unrolled_orders(sizeof(RealOf<V>)).complex
                                                 : unrolled_orders(sizeof(RealOf<V>)).real);

// body(k) for k = kBegin .. kEnd - 1. kUnroll: each k is a compile-time constant, so that loops
// whose bounds depend on it are of known length, and unrolled too.
template <int kBegin, int kEnd, bool kUnroll, typename Body>
TORCHDET_LANE void for_steps(Body body) {
  if constexpr (!kUnroll) {
    TORCHDET_UNROLL
    for (int k = kBegin; k < kEnd; ++k) {
      body(k);
    }
  } else if constexpr (kBegin < kEnd) {
    body(std::integral_constant<int, kBegin>());
    for_steps<kBegin + 1, kEnd, true>(body);
  }
}

// ---- operations on plain numbers; cpu/simd/vec.h gives the same for packs ----

template <typename T>
concept Float = std::same_as<T, float> || std::same_as<T, double>;
template <typename T>
concept Plain = std::is_arithmetic_v<T>;

template <Plain T>
TORCHDET_LANE T select(bool mask, T a, T b) {
  return mask ? a : b;
}
template <Plain T>
TORCHDET_LANE bool greater(T a, T b) {
  return a > b;
}
template <Plain T>
TORCHDET_LANE bool equal(T a, T b) {
  return a == b;
}
TORCHDET_LANE bool mask_or(bool a, bool b) {
  return a || b;
}
template <Plain T>
TORCHDET_LANE bool all_equal(T a, T b) {
  return a == b;
}
TORCHDET_LANE bool any(bool mask) {
  return mask;
}
// The second argument where the first is NaN; of a number and then NaN it may be either.
template <Plain T>
TORCHDET_LANE T maximum(T a, T b) {
#ifdef __CUDA_ARCH__  // one instruction
  if constexpr (std::is_floating_point_v<T>) {
    return ::fmax(a, b);
  }
#endif
  return a > b ? a : b;
}
template <Plain T>
TORCHDET_LANE T minimum(T a, T b) {
  return a < b ? a : b;
}
template <Float T>
TORCHDET_LANE T square_root(T x) {
  return sizeof(T) == 4 ? __builtin_sqrtf(x) : __builtin_sqrt(x);
}
TORCHDET_LANE float real_of(int32_t x) {
  return static_cast<float>(x);
}
TORCHDET_LANE double real_of(int64_t x) {
  return static_cast<double>(x);
}
// Whether fma rounds once.
#if defined(TORCHDET_HAS_FMA) || defined(__CUDACC__) || defined(__aarch64__)
constexpr bool kFusesMultiplyAdd = true;
#else
constexpr bool kFusesMultiplyAdd = false;
#endif

// a * b + c, fused exactly where the packs of the same instruction set fuse it.
template <Float T>
TORCHDET_LANE T fma(T a, T b, T c) {
#if defined(TORCHDET_HAS_FMA) || defined(__CUDA_ARCH__) || defined(__aarch64__)
  if constexpr (sizeof(T) == 4) {
    return __builtin_fmaf(a, b, c);
  } else {
    return __builtin_fma(a, b, c);
  }
#else
  return a * b + c;
#endif
}
template <Float T>
TORCHDET_LANE T fnma(T a, T b, T c) {
  return fma(-a, b, c);
}

template <Float T>
TORCHDET_LANE typename Format<T>::Integer bits_of(T x) {
  typename Format<T>::Integer bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}
TORCHDET_LANE float from_bits(int32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}
TORCHDET_LANE double from_bits(int64_t bits) {
  double x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

template <Float T>
TORCHDET_LANE T abs(T x) {
#ifdef __CUDA_ARCH__  // a modifier of the instruction that uses it
  return ::fabs(x);
#else
  using I = typename Format<T>::Integer;
  return from_bits(I(bits_of(x) & std::numeric_limits<I>::max()));
#endif
}

// ---- exponents and exact scaling, for numbers and packs alike ----

// 2^e for kMinExponent <= e <= kMaxExponent.
template <typename R>
TORCHDET_LANE R exact_pow2(IntegerOf<R> e) {
  using F = Format<ScalarOf<R>>;
  return from_bits((e + IntegerOf<R>(F::kMaxExponent)) << F::kFractionBits);
}

// floor(log2 |x|); kZeroExponent for 0, kMaxExponent + 1 for infinity and NaN. kNormal promises
// that x is not subnormal.
template <bool kNormal = false, typename R>
TORCHDET_LANE IntegerOf<R> exponent_of(R x) {
  using T = ScalarOf<R>;
  using F = Format<T>;
  using I = IntegerOf<R>;
  const R magnitude = abs(x);
  I e;
  if constexpr (kNormal) {
    e = (bits_of(magnitude) >> F::kFractionBits) - I(F::kMaxExponent);
  } else {
    constexpr int kLift = F::kFractionBits + 1;  // 2^kLift makes every subnormal number normal
    const auto tiny = greater(R(std::numeric_limits<T>::min()), magnitude);
    const R lifted = select(tiny, magnitude * R(T(int64_t(1) << kLift)), magnitude);
    e = (bits_of(lifted) >> F::kFractionBits) - I(F::kMaxExponent) - select(tiny, I(kLift), I(0));
  }
  return select(equal(bits_of(magnitude), I(0)), I(kZeroExponent), e);
}

// Exponents of at most this size can be summed in pairs and still be applied by one factor
// exact_pow2: the fast way to scale a whole tile, taken when all its exponents allow it. It rounds
// as scale_pow2 does, so the choice, which depends on all matrices of a tile, cannot be seen in the
// result of any of them.
template <typename R>
constexpr int kPairExponent = Format<ScalarOf<R>>::kMaxExponent / 2;

// x * 2^e for any e: three factors cover the distance between the smallest subnormal and the
// largest number. The first factor carries everything where e is within the format, so a
// neighbour's exponent cannot change a rounding.
template <typename R>
TORCHDET_LANE R scale_pow2(R x, IntegerOf<R> e) {
  using F = Format<ScalarOf<R>>;
  using I = IntegerOf<R>;
  const I low = I(F::kMinExponent);
  const I high = I(F::kMaxExponent);
  I part = maximum(minimum(e, high), low);
  x = x * exact_pow2<R>(part);
  const I rest = e - part;
  if (all_equal(rest, I(0))) {
    return x;
  }
  part = maximum(minimum(rest, high), low);
  x = x * exact_pow2<R>(part);
  part = maximum(minimum(rest - part, high), low);
  return x * exact_pow2<R>(part);
}

// ---- complex lanes ----

template <typename R>
struct Complex {
  R re, im;
  Complex() = default;
  TORCHDET_LANE constexpr Complex(R re_, R im_) : re(re_), im(im_) {}
  TORCHDET_LANE explicit Complex(R re_) : re(re_), im(R(ScalarOf<R>(0))) {}
};

template <typename R>
struct LaneTraits<Complex<R>> {
  using Real = R;
  using Integer = IntegerOf<R>;
  using Scalar = ScalarOf<R>;
  static constexpr int kWidth = LaneTraits<R>::kWidth;
  static constexpr bool kIsComplex = true;
};

template <typename R>
TORCHDET_LANE Complex<R> operator+(Complex<R> a, Complex<R> b) {
  return {a.re + b.re, a.im + b.im};
}
template <typename R>
TORCHDET_LANE Complex<R> operator-(Complex<R> a) {
  return {-a.re, -a.im};
}
template <typename R>
TORCHDET_LANE Complex<R> operator*(Complex<R> a, Complex<R> b) {
  return {fnma(a.im, b.im, a.re * b.re), fma(a.im, b.re, a.re * b.im)};
}
template <typename R>
TORCHDET_LANE Complex<R> operator*(Complex<R> a, R b) {
  return {a.re * b, a.im * b};
}
template <typename R>
TORCHDET_LANE Complex<R> fma(Complex<R> a, Complex<R> b, Complex<R> c) {
  return {fnma(a.im, b.im, fma(a.re, b.re, c.re)), fma(a.im, b.re, fma(a.re, b.im, c.im))};
}
template <typename R>
TORCHDET_LANE Complex<R> fnma(Complex<R> a, Complex<R> b, Complex<R> c) {
  return {fma(a.im, b.im, fnma(a.re, b.re, c.re)), fnma(a.im, b.re, fnma(a.re, b.im, c.im))};
}
template <typename M, typename R>
TORCHDET_LANE Complex<R> select(M mask, Complex<R> a, Complex<R> b) {
  return {select(mask, a.re, b.re), select(mask, a.im, b.im)};
}
template <typename R>
TORCHDET_LANE Complex<R> scale_pow2(Complex<R> x, IntegerOf<R> e) {
  return {scale_pow2(x.re, e), scale_pow2(x.im, e)};
}

// Size of a number for choosing a pivot: |re| + |im| stands for the modulus, within sqrt(2), at no
// square root.
template <typename R>
TORCHDET_LANE R pivot_size(R x) {
  return abs(x);
}
template <typename R>
TORCHDET_LANE R pivot_size(Complex<R> x) {
  return abs(x.re) + abs(x.im);
}

// The larger of |re| and |im|: what decides the exponent of a number.
template <typename R>
TORCHDET_LANE R component_size(R x) {
  return abs(x);
}
template <typename R>
TORCHDET_LANE R component_size(Complex<R> x) {
  return maximum(abs(x.re), abs(x.im));
}

// Its bit pattern, which orders like the number and puts NaN above infinity.
template <typename R>
TORCHDET_LANE IntegerOf<R> component_bits(R x) {
  return bits_of(abs(x));
}
template <typename R>
TORCHDET_LANE IntegerOf<R> component_bits(Complex<R> x) {
  return maximum(bits_of(abs(x.re)), bits_of(abs(x.im)));
}

template <typename R>
TORCHDET_LANE R conj(R x) {
  return x;
}
template <typename R>
TORCHDET_LANE Complex<R> conj(Complex<R> x) {
  return {x.re, -x.im};
}

template <typename V>
TORCHDET_LANE V zero() {
  return V(RealOf<V>(ScalarOf<V>(0)));
}
template <typename V>
TORCHDET_LANE V one() {
  return V(RealOf<V>(ScalarOf<V>(1)));
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
