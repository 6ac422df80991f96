// Times single CPU kernels, without torch and on one thread: the part that all programs of tune.py
// share. A program is this header, after that of an instruction set, and a main of time_case.
#pragma once

#include <chrono>
#include <cstdio>
#include <random>

#include "cpu/targets/fill_table.h"

namespace torchdet {

void parallel_parts(int64_t count, int64_t, void* context,
                    void (*body)(void* context, int64_t begin, int64_t end)) {
  body(context, 0, count);
}

inline namespace TORCHDET_CAPABILITY {

// The kernels of the class "rows" for one order, as fill_table.h enters them.
template <typename V, int N>
struct ClassRows {
  static constexpr int W = LaneTraits<V>::kWidth;
  static constexpr int kOwn = own_packs(kVectorBytes, sizeof(ScalarOf<V>), kIsComplex<V>);
  static constexpr int kNeeded = (N + W - 1) / W, kPacks = kNeeded <= kOwn ? kNeeded : 0;
  static constexpr int kMost = kPacks > 0          ? kPacks
                               : N <= kOrderOfWord ? kOrderOfWord / W
                                                   : static_cast<int>(kLargestRows) / W;
  static constexpr int kGroup = row_group(kVectorBytes, kPacks);
  using Matrices = RowsKernels<V, kPacks, kMost, kGroup>;
  using Hvp = RowsHvp<V, kPacks, kMost, kGroup>;
};

// Normal numbers in A and `other`, and room for all results.
template <typename V>
class Batch {
 public:
  using T = ScalarOf<V>;
  using Run = void (*)(const Problem&, int64_t begin, int64_t end);

  Batch(int n, Op op) : parts_(kIsComplex<V> ? 2 : 1) {
    // About half of an L1 cache, in whole packs and groups; a few matrices of those that are
    // larger.
    const int64_t bytes = int64_t(n) * n * parts_ * sizeof(T);
    problem_.n = n;
    problem_.op = op;
    problem_.batch =
        bytes * 64 <= (64 << 10) ? 64 : std::max<int64_t>(4, (64 << 10) / bytes / 16 * 16);
    const int64_t numbers = problem_.batch * n * n * parts_;
    std::mt19937 generator(n);
    std::normal_distribution<T> normal;
    for (std::vector<T>* values : {&a_, &z_, &out_, &kept_, &determinant_, &logabsdet_}) {
      values->resize(numbers + parts_ * problem_.batch);
      std::generate(values->begin(), values->end(), [&] { return normal(generator); });
    }
    integers_.resize(problem_.batch * count_of_kept_integers(n));
    problem_.A = matrices(a_);
    const bool takes_numbers = op == Op::kDetBackward;
    problem_.other = matrices(z_);
    if (takes_numbers) {
      problem_.other = {};
      problem_.other.data = z_.data();
      problem_.other.append(problem_.batch, 1);
    }
    problem_.out = out_.data();
    problem_.determinant = determinant_.data();
  }

  void run(Run kernel) const { kernel(problem_, 0, problem_.batch); }
  // A forward pass that saves what the other backward pass reads, and that pass.
  void run_both(Run keep, Run from_kept) {
    Problem p = problem_;
    p.op = Op::kDetKeep;
    p.out = kept_.data();
    p.integers = integers_.data();
    keep(p, 0, p.batch);
    p = problem_;
    p.kept = kept_.data();
    p.kept_integers = integers_.data();
    from_kept(p, 0, p.batch);
  }
  void run_both_from_A(Run determinants, Run cofactors) const {
    Problem p = problem_;
    p.op = Op::kDet;
    determinants(p, 0, p.batch);
    cofactors(problem_, 0, problem_.batch);
  }
  int64_t size() const { return problem_.batch; }

 private:
  BatchView matrices(const std::vector<T>& values) const {
    BatchView view;
    view.data = values.data();
    view.append(problem_.batch, problem_.n * problem_.n);
    view.row_stride = problem_.n;
    view.column_stride = 1;
    return view;
  }
  int parts_;
  Problem problem_;
  std::vector<T> a_, z_, out_, kept_, determinant_, logabsdet_;
  std::vector<int32_t> integers_;
};

// Prints the least time of a matrix in nanoseconds. body(batch) works on a whole batch.
template <typename V, typename Body>
void time_case(const char* name, int n, Op op, Body body) {
  using Clock = std::chrono::steady_clock;
  constexpr double kSeconds = 0.02;
  Batch<V> batch(n, op);
  double least = 1e9, total = 0;
  for (int i = 0; i < 3 || total < kSeconds; ++i) {
    const auto begin = Clock::now();
    body(batch);
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    least = std::min(least, seconds);
    total += seconds;
  }
  std::printf("%s\t%.6g\n", name, least / static_cast<double>(batch.size()) * 1e9);
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
