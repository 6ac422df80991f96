// Multiply-adds in registers, as many as the processor can do: the limit that kernels are held
// against. Compiled for the processor at hand when a benchmark runs (limits.py).
#include <cstdint>

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

// Chains that do not wait for each other: more than the latency of a multiply-add times their
// number per cycle, on any processor so far.
constexpr int kChains = 12;

template <typename T>
int64_t multiply_adds(int64_t steps) {
  typedef T Pack __attribute__((vector_size(kBytes)));
  Pack x[kChains];
  const Pack factor = Pack{} + T(0.999), term = Pack{} + T(0.001);
  for (Pack& chain : x) {
    chain = Pack{} + static_cast<T>(steps);  // unknown to the compiler
  }
  for (int64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (int k = 0; k < kChains; ++k) {
      x[k] = x[k] * factor + term;
    }
  }
  Pack sum{};
  for (const Pack& chain : x) {
    sum += chain;
  }
  // The sum is used, so the work is not left out. It is at least kChains.
  return sum[0] != 0 ? 2 * steps * kChains * static_cast<int64_t>(kBytes / sizeof(T)) : 0;
}

}  // namespace

// Both return the number of operations done, two for each multiply-add.
extern "C" int64_t multiply_adds_float32(int64_t steps) {
  return multiply_adds<float>(steps);
}
extern "C" int64_t multiply_adds_float64(int64_t steps) {
  return multiply_adds<double>(steps);
}
