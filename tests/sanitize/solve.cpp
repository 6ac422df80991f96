// csrc/cpu/solve/solve.h at small matrices of any content, and with any integers for the factors:
// ends with 0 unless a sanitizer finds something.
#include "../../csrc/cpu/solve/solve.h"

#include <cstdlib>
#include <vector>

namespace {

using namespace torchdet;

// A linear congruential generator: the same numbers with every compiler.
uint64_t state = 1;
uint64_t draw() {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return state >> 16;
}

template <typename R>
R number() {
  using Limits = std::numeric_limits<R>;
  switch (draw() % 10) {
    case 0:
      return Limits::quiet_NaN();
    case 1:
      return -Limits::infinity();
    case 2:
      return Limits::denorm_min() * R(draw() % 9);
    case 3:
      return Limits::max();
    case 4:
      return R(0);
    default:
      return R(static_cast<double>(draw()) / (uint64_t(1) << 48) - 0.5);
  }
}
template <typename V>
V entry() {
  if constexpr (kIsComplex<V>) {
    return V{number<RealOf<V>>(), number<RealOf<V>>()};
  } else {
    return number<V>();
  }
}

template <bool kAdjoint, typename V>
void solve(const std::vector<V>& lu, const std::vector<int32_t>& integers,
           const std::vector<V>& b) {
  const auto n = static_cast<int64_t>(b.size());
  std::vector<V> x(n, zero<V>()), y(n, zero<V>());
  std::vector<int32_t> seen(n);
  const FactoredSystem<kAdjoint, V> system(lu.data(), integers.data(), n, 0, seen.data());
  const int32_t exponent = system.enter(b.data(), x.data());
  system.solve(x.data());
  system.leave(x.data(), exponent, y.data());
}

template <typename V>
void run() {
  for (int round = 0; round < 3000; ++round) {
    const int64_t n = 1 + draw() % 9;
    std::vector<V> A(n * n, zero<V>()), lu = A, b(n, zero<V>());
    std::vector<int32_t> integers(count_of_factor_integers(n));
    std::generate(A.begin(), A.end(), entry<V>);
    std::generate(b.begin(), b.end(), entry<V>);
    BatchView view;
    view.data = A.data();
    view.row_stride = n;
    view.column_stride = 1;
    factor(view, 0, n, lu.data(), integers.data());
    if (round % 3 == 0) {
      std::generate(integers.begin(), integers.end(),
                    [] { return static_cast<int32_t>(draw() >> draw() % 48); });
    }
    integers[0] = round % 7 == 0 ? 1 : integers[0];
    solve<false>(lu, integers, b);
    solve<true>(lu, integers, b);
  }
}

}  // namespace

int main() {
  run<float>();
  run<double>();
  run<Complex<float>>();
  run<Complex<double>>();
  return EXIT_SUCCESS;
}
