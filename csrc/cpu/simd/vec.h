// Vec<T, W>: a SIMD pack of W numbers with the lane operations of math/lane.h.
//
// Built on the compiler's vector extension, which maps to the instruction set the translation unit
// is compiled for and works on any processor. Intrinsics appear only where the extension has no
// word for an instruction: fused multiply-add, and the mask registers of AVX-512.
#pragma once

#include "../../math/lane.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

#ifndef TORCHDET_VECTOR_BYTES
#define TORCHDET_VECTOR_BYTES 16  // SSE2, NEON: what every 64-bit processor has
#endif
constexpr int kVectorBytes = TORCHDET_VECTOR_BYTES;

template <typename T, int W>
struct RawVector {
  typedef T Type __attribute__((vector_size(W * sizeof(T))));
};
template <typename T, int W>
using RawOf = typename RawVector<T, W>::Type;

template <typename T, int W>
struct Vec {
  using Raw = RawOf<T, W>;
  Raw raw;
  Vec() = default;
  TORCHDET_LANE Vec(Raw r) : raw(r) {}
  // A broadcast: x - 0 is x for every x, -0.0 included, and compilers know it.
  TORCHDET_LANE explicit Vec(T x) : raw(x - Raw{}) {}
  TORCHDET_LANE T operator[](int lane) const { return raw[lane]; }
};

template <typename T, int W>
struct LaneTraits<Vec<T, W>> {
  using Real = Vec<T, W>;
  using Integer = Vec<typename Format<T>::Integer, W>;
  using Scalar = T;
  static constexpr int kWidth = W;
  static constexpr bool kIsComplex = false;
};

template <int W>
struct LaneTraits<Vec<int32_t, W>> {
  using Scalar = int32_t;
};
template <int W>
struct LaneTraits<Vec<int64_t, W>> {
  using Scalar = int64_t;
};

// One bit per matrix: a mask register where there is one, else a pack of integers 0 / -1.
template <int Bytes, int W>
struct Mask {
  using Word = std::conditional_t<Bytes / W == 4, int32_t, int64_t>;
  using Raw = RawOf<Word, W>;
  Raw raw;
};
template <typename T, int W>
using MaskOf = Mask<W * sizeof(T), W>;

// The numbers that arithmetic is done on: integers wrap around, where overflow of signed ones would
// be undefined.
template <typename T>
struct Modular {
  using Type = T;
};
template <std::integral T>
struct Modular<T> {
  using Type = std::make_unsigned_t<T>;
};
template <typename T, int W>
TORCHDET_LANE auto modular(Vec<T, W> x) {
  return reinterpret_cast<RawOf<typename Modular<T>::Type, W>>(x.raw);
}

#define TORCHDET_VEC           \
  template <typename T, int W> \
  TORCHDET_LANE

// clang-format off
TORCHDET_VEC Vec<T, W> operator+(Vec<T, W> a, Vec<T, W> b) { return (RawOf<T, W>)(modular(a) + modular(b)); }
TORCHDET_VEC Vec<T, W> operator-(Vec<T, W> a, Vec<T, W> b) { return (RawOf<T, W>)(modular(a) - modular(b)); }
TORCHDET_VEC Vec<T, W> operator*(Vec<T, W> a, Vec<T, W> b) { return (RawOf<T, W>)(modular(a) * modular(b)); }
TORCHDET_VEC Vec<T, W> operator/(Vec<T, W> a, Vec<T, W> b) { return a.raw / b.raw; }
TORCHDET_VEC Vec<T, W> operator-(Vec<T, W> a) { return (RawOf<T, W>)(-modular(a)); }
TORCHDET_VEC Vec<T, W> operator&(Vec<T, W> a, Vec<T, W> b) { return a.raw & b.raw; }
TORCHDET_VEC Vec<T, W> operator^(Vec<T, W> a, Vec<T, W> b) { return a.raw ^ b.raw; }
TORCHDET_VEC Vec<T, W> operator<<(Vec<T, W> a, int s) { return (RawOf<T, W>)(modular(a) << s); }
TORCHDET_VEC Vec<T, W> operator>>(Vec<T, W> a, int s) { return a.raw >> s; }
// clang-format on

template <int W>
TORCHDET_LANE Vec<int32_t, W> bits_of(Vec<float, W> x) {
  return reinterpret_cast<typename Vec<int32_t, W>::Raw>(x.raw);
}
template <int W>
TORCHDET_LANE Vec<int64_t, W> bits_of(Vec<double, W> x) {
  return reinterpret_cast<typename Vec<int64_t, W>::Raw>(x.raw);
}
template <int W>
TORCHDET_LANE Vec<float, W> from_bits(Vec<int32_t, W> x) {
  return reinterpret_cast<typename Vec<float, W>::Raw>(x.raw);
}
template <int W>
TORCHDET_LANE Vec<double, W> from_bits(Vec<int64_t, W> x) {
  return reinterpret_cast<typename Vec<double, W>::Raw>(x.raw);
}

TORCHDET_VEC Vec<T, W> abs(Vec<T, W> x) {
  using I = typename Format<T>::Integer;
  return from_bits(Vec<I, W>(bits_of(x).raw & std::numeric_limits<I>::max()));
}

// ---- masks without mask registers ----

template <int B, int W>
TORCHDET_LANE Mask<B, W> mask_or(Mask<B, W> a, Mask<B, W> b) {
  return {a.raw | b.raw};
}
TORCHDET_VEC MaskOf<T, W> greater(Vec<T, W> a, Vec<T, W> b) {
  return {reinterpret_cast<typename MaskOf<T, W>::Raw>(a.raw > b.raw)};
}
TORCHDET_VEC MaskOf<T, W> equal(Vec<T, W> a, Vec<T, W> b) {
  return {reinterpret_cast<typename MaskOf<T, W>::Raw>(a.raw == b.raw)};
}
TORCHDET_VEC Vec<T, W> select(MaskOf<T, W> mask, Vec<T, W> a, Vec<T, W> b) {
  return mask.raw ? a.raw : b.raw;
}
template <int B, int W>
TORCHDET_LANE bool any(Mask<B, W> mask) {
  typename Mask<B, W>::Word any = 0;
  for (int i = 0; i < W; ++i) {
    any |= mask.raw[i];
  }
  return any != 0;
}
TORCHDET_VEC bool all_equal(Vec<T, W> a, Vec<T, W> b) {
  return !any(MaskOf<T, W>{reinterpret_cast<typename MaskOf<T, W>::Raw>(a.raw != b.raw)});
}

// ---- masks in mask registers ----

#if TORCHDET_VECTOR_BYTES == 64
template <>
struct Mask<64, 16> {
  __mmask16 raw;
};
template <>
struct Mask<64, 8> {
  __mmask8 raw;
};
using F16 = Vec<float, 16>;
using D8 = Vec<double, 8>;
using I16 = Vec<int32_t, 16>;
using L8 = Vec<int64_t, 8>;

// clang-format off
TORCHDET_LANE Mask<64, 16> mask_or(Mask<64, 16> a, Mask<64, 16> b) { return {static_cast<__mmask16>(a.raw | b.raw)}; }
TORCHDET_LANE Mask<64, 8> mask_or(Mask<64, 8> a, Mask<64, 8> b) { return {static_cast<__mmask8>(a.raw | b.raw)}; }
TORCHDET_LANE Mask<64, 16> greater(F16 a, F16 b) { return {_mm512_cmp_ps_mask((__m512)a.raw, (__m512)b.raw, _CMP_GT_OQ)}; }
TORCHDET_LANE Mask<64, 8> greater(D8 a, D8 b) { return {_mm512_cmp_pd_mask((__m512d)a.raw, (__m512d)b.raw, _CMP_GT_OQ)}; }
TORCHDET_LANE Mask<64, 16> greater(I16 a, I16 b) { return {_mm512_cmpgt_epi32_mask((__m512i)a.raw, (__m512i)b.raw)}; }
TORCHDET_LANE Mask<64, 8> greater(L8 a, L8 b) { return {_mm512_cmpgt_epi64_mask((__m512i)a.raw, (__m512i)b.raw)}; }
TORCHDET_LANE Mask<64, 16> equal(F16 a, F16 b) { return {_mm512_cmp_ps_mask((__m512)a.raw, (__m512)b.raw, _CMP_EQ_OQ)}; }
TORCHDET_LANE Mask<64, 8> equal(D8 a, D8 b) { return {_mm512_cmp_pd_mask((__m512d)a.raw, (__m512d)b.raw, _CMP_EQ_OQ)}; }
TORCHDET_LANE Mask<64, 16> equal(I16 a, I16 b) { return {_mm512_cmpeq_epi32_mask((__m512i)a.raw, (__m512i)b.raw)}; }
TORCHDET_LANE Mask<64, 8> equal(L8 a, L8 b) { return {_mm512_cmpeq_epi64_mask((__m512i)a.raw, (__m512i)b.raw)}; }
TORCHDET_LANE F16 select(Mask<64, 16> m, F16 a, F16 b) { return F16((F16::Raw)_mm512_mask_blend_ps(m.raw, (__m512)b.raw, (__m512)a.raw)); }
TORCHDET_LANE D8 select(Mask<64, 8> m, D8 a, D8 b) { return D8((D8::Raw)_mm512_mask_blend_pd(m.raw, (__m512d)b.raw, (__m512d)a.raw)); }
TORCHDET_LANE I16 select(Mask<64, 16> m, I16 a, I16 b) { return I16((I16::Raw)_mm512_mask_blend_epi32(m.raw, (__m512i)b.raw, (__m512i)a.raw)); }
TORCHDET_LANE L8 select(Mask<64, 8> m, L8 a, L8 b) { return L8((L8::Raw)_mm512_mask_blend_epi64(m.raw, (__m512i)b.raw, (__m512i)a.raw)); }
TORCHDET_LANE bool any(Mask<64, 16> mask) { return mask.raw != 0; }
TORCHDET_LANE bool any(Mask<64, 8> mask) { return mask.raw != 0; }
TORCHDET_LANE bool all_equal(I16 a, I16 b) { return _mm512_cmpneq_epi32_mask((__m512i)a.raw, (__m512i)b.raw) == 0; }
TORCHDET_LANE bool all_equal(L8 a, L8 b) { return _mm512_cmpneq_epi64_mask((__m512i)a.raw, (__m512i)b.raw) == 0; }
// clang-format on
#endif

// ---- maximum and minimum: a > b ? a : b, one instruction where there is one ----

TORCHDET_VEC Vec<T, W> maximum(Vec<T, W> a, Vec<T, W> b) {
  return select(greater(a, b), a, b);
}
TORCHDET_VEC Vec<T, W> minimum(Vec<T, W> a, Vec<T, W> b) {
  return select(greater(b, a), a, b);
}
// clang-format off
#if TORCHDET_VECTOR_BYTES == 64
TORCHDET_LANE F16 maximum(F16 a, F16 b) { return F16((F16::Raw)_mm512_max_ps((__m512)a.raw, (__m512)b.raw)); }
TORCHDET_LANE D8 maximum(D8 a, D8 b) { return D8((D8::Raw)_mm512_max_pd((__m512d)a.raw, (__m512d)b.raw)); }
TORCHDET_LANE I16 maximum(I16 a, I16 b) { return I16((I16::Raw)_mm512_max_epi32((__m512i)a.raw, (__m512i)b.raw)); }
TORCHDET_LANE L8 maximum(L8 a, L8 b) { return L8((L8::Raw)_mm512_max_epi64((__m512i)a.raw, (__m512i)b.raw)); }
TORCHDET_LANE I16 minimum(I16 a, I16 b) { return I16((I16::Raw)_mm512_min_epi32((__m512i)a.raw, (__m512i)b.raw)); }
TORCHDET_LANE L8 minimum(L8 a, L8 b) { return L8((L8::Raw)_mm512_min_epi64((__m512i)a.raw, (__m512i)b.raw)); }
#elif TORCHDET_VECTOR_BYTES == 32
using F8 = Vec<float, 8>;
using D4 = Vec<double, 4>;
using I8 = Vec<int32_t, 8>;
TORCHDET_LANE F8 maximum(F8 a, F8 b) { return F8((F8::Raw)_mm256_max_ps((__m256)a.raw, (__m256)b.raw)); }
TORCHDET_LANE D4 maximum(D4 a, D4 b) { return D4((D4::Raw)_mm256_max_pd((__m256d)a.raw, (__m256d)b.raw)); }
TORCHDET_LANE I8 maximum(I8 a, I8 b) { return I8((I8::Raw)_mm256_max_epi32((__m256i)a.raw, (__m256i)b.raw)); }
TORCHDET_LANE I8 minimum(I8 a, I8 b) { return I8((I8::Raw)_mm256_min_epi32((__m256i)a.raw, (__m256i)b.raw)); }
#endif
// clang-format on

// ---- fused multiply-add ----

// clang-format off
#if TORCHDET_VECTOR_BYTES == 64
TORCHDET_LANE F16 fma(F16 a, F16 b, F16 c) { return F16((F16::Raw)_mm512_fmadd_ps((__m512)a.raw, (__m512)b.raw, (__m512)c.raw)); }
TORCHDET_LANE D8 fma(D8 a, D8 b, D8 c) { return D8((D8::Raw)_mm512_fmadd_pd((__m512d)a.raw, (__m512d)b.raw, (__m512d)c.raw)); }
TORCHDET_LANE F16 fnma(F16 a, F16 b, F16 c) { return F16((F16::Raw)_mm512_fnmadd_ps((__m512)a.raw, (__m512)b.raw, (__m512)c.raw)); }
TORCHDET_LANE D8 fnma(D8 a, D8 b, D8 c) { return D8((D8::Raw)_mm512_fnmadd_pd((__m512d)a.raw, (__m512d)b.raw, (__m512d)c.raw)); }
#elif TORCHDET_VECTOR_BYTES == 32
TORCHDET_LANE F8 fma(F8 a, F8 b, F8 c) { return F8((F8::Raw)_mm256_fmadd_ps((__m256)a.raw, (__m256)b.raw, (__m256)c.raw)); }
TORCHDET_LANE D4 fma(D4 a, D4 b, D4 c) { return D4((D4::Raw)_mm256_fmadd_pd((__m256d)a.raw, (__m256d)b.raw, (__m256d)c.raw)); }
TORCHDET_LANE F8 fnma(F8 a, F8 b, F8 c) { return F8((F8::Raw)_mm256_fnmadd_ps((__m256)a.raw, (__m256)b.raw, (__m256)c.raw)); }
TORCHDET_LANE D4 fnma(D4 a, D4 b, D4 c) { return D4((D4::Raw)_mm256_fnmadd_pd((__m256d)a.raw, (__m256d)b.raw, (__m256d)c.raw)); }
#elif defined(__aarch64__)
using F4 = Vec<float, 4>;
using D2 = Vec<double, 2>;
TORCHDET_LANE F4 fma(F4 a, F4 b, F4 c) { return F4((F4::Raw)vfmaq_f32((float32x4_t)c.raw, (float32x4_t)a.raw, (float32x4_t)b.raw)); }
TORCHDET_LANE D2 fma(D2 a, D2 b, D2 c) { return D2((D2::Raw)vfmaq_f64((float64x2_t)c.raw, (float64x2_t)a.raw, (float64x2_t)b.raw)); }
TORCHDET_LANE F4 fnma(F4 a, F4 b, F4 c) { return F4((F4::Raw)vfmsq_f32((float32x4_t)c.raw, (float32x4_t)a.raw, (float32x4_t)b.raw)); }
TORCHDET_LANE D2 fnma(D2 a, D2 b, D2 c) { return D2((D2::Raw)vfmsq_f64((float64x2_t)c.raw, (float64x2_t)a.raw, (float64x2_t)b.raw)); }
#else
// Not fused, as those of numbers (math/lane.h).
TORCHDET_VEC Vec<T, W> fma(Vec<T, W> a, Vec<T, W> b, Vec<T, W> c) { return a.raw * b.raw + c.raw; }
TORCHDET_VEC Vec<T, W> fnma(Vec<T, W> a, Vec<T, W> b, Vec<T, W> c) { return c.raw - a.raw * b.raw; }
#endif
// clang-format on

// ---- conversion and square root ----

template <int W>
TORCHDET_LANE Vec<float, W> real_of(Vec<int32_t, W> x) {
  return __builtin_convertvector(x.raw, typename Vec<float, W>::Raw);
}
template <int W>
TORCHDET_LANE Vec<double, W> real_of(Vec<int64_t, W> x) {
  return __builtin_convertvector(x.raw, typename Vec<double, W>::Raw);
}
TORCHDET_VEC Vec<T, W> square_root(Vec<T, W> x) {
  Vec<T, W> r;
  for (int i = 0; i < W; ++i) {
    r.raw[i] = square_root(x.raw[i]);
  }
  return r;
}
#if TORCHDET_VECTOR_BYTES == 64
TORCHDET_LANE F16 square_root(F16 x) {
  return F16((F16::Raw)_mm512_sqrt_ps((__m512)x.raw));
}
TORCHDET_LANE D8 square_root(D8 x) {
  return D8((D8::Raw)_mm512_sqrt_pd((__m512d)x.raw));
}
#elif TORCHDET_VECTOR_BYTES == 32
TORCHDET_LANE F8 square_root(F8 x) {
  return F8((F8::Raw)_mm256_sqrt_ps((__m256)x.raw));
}
TORCHDET_LANE D4 square_root(D4 x) {
  return D4((D4::Raw)_mm256_sqrt_pd((__m256d)x.raw));
}
#endif

// ---- memory ----

TORCHDET_VEC Vec<T, W> load(const T* from) {
  Vec<T, W> x;
  std::memcpy(&x.raw, from, sizeof(x.raw));
  return x;
}
TORCHDET_VEC void store(T* to, Vec<T, W> x) {
  std::memcpy(to, &x.raw, sizeof(x.raw));
}

// The first count < W numbers, zeros after them; nothing beyond them is touched.
TORCHDET_VEC Vec<T, W> load_first(const T* from, int count) {
#if TORCHDET_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) {
    return Vec<T, W>((typename Vec<T, W>::Raw)_mm512_maskz_loadu_ps(
        static_cast<__mmask16>((1u << count) - 1), from));
  } else {
    return Vec<T, W>((typename Vec<T, W>::Raw)_mm512_maskz_loadu_pd(
        static_cast<__mmask8>((1u << count) - 1), from));
  }
#elif TORCHDET_VECTOR_BYTES == 32
  alignas(32) static constexpr typename Format<T>::Integer kMask[2 * W] = {
      -1, -1, -1, -1, W == 8 ? -1 : 0, W == 8 ? -1 : 0, W == 8 ? -1 : 0, W == 8 ? -1 : 0};
  const __m256i mask = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMask + W - count));
  if constexpr (sizeof(T) == 4) {
    return Vec<T, W>((typename Vec<T, W>::Raw)_mm256_maskload_ps(from, mask));
  } else {
    return Vec<T, W>((typename Vec<T, W>::Raw)_mm256_maskload_pd(from, mask));
  }
#else
  alignas(16) T buffer[W] = {};
  for (int i = 0; i < count; ++i) {
    buffer[i] = from[i];
  }
  return load<T, W>(buffer);
#endif
}

TORCHDET_VEC void store_first(T* to, Vec<T, W> x, int count) {
#if TORCHDET_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) {
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), (__m512)x.raw);
  } else {
    _mm512_mask_storeu_pd(to, static_cast<__mmask8>((1u << count) - 1), (__m512d)x.raw);
  }
#else  // two overlapping moves of a power of two: masked stores are slow on some processors with
       // AVX2
  alignas(32) T buffer[W];
  store(buffer, x);
  if (W > 4 && count >= 4) {
    std::memcpy(to, buffer, 4 * sizeof(T));
    std::memcpy(to + count - 4, buffer + count - 4, 4 * sizeof(T));
  } else {
    for (int i = 0; i < count; ++i) {
      to[i] = buffer[i];
    }
  }
#endif
}

#undef TORCHDET_VEC

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
