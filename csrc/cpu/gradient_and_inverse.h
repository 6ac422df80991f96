// The results that one inversion serves.
#pragma once

#include "../math/lane.h"
#include "../problem.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// A problem and, where Problem::inverse asks for conj(A^-T) as well, the problem of that: the
// gradient of log|det A| for grad = 1.
template <typename P>
class GradientAndInverse {
 public:
  explicit GradientAndInverse(const Problem& p) : problems_{&p, &inverse_} {
    if (p.inverse != nullptr) {
      inverse_ = p;
      inverse_.out = p.inverse;
      inverse_.other.dims = 0;
      inverse_.other.data = grad_;
      count_ = 2;
    }
  }
  GradientAndInverse(const GradientAndInverse&) = delete;
  const Problem* const* begin() const { return problems_; }
  const Problem* const* end() const { return problems_ + count_; }

 private:
  const ScalarOf<P> grad_[2] = {1, 0};  // also of a complex number
  Problem inverse_;
  const Problem* const problems_[2];
  int count_ = 1;
};

// The problem alone, for kernels that are not asked for both.
class GradientAlone {
 public:
  explicit GradientAlone(const Problem& p) : problems_{&p} {}
  const Problem* const* begin() const { return problems_; }
  const Problem* const* end() const { return problems_ + 1; }

 private:
  const Problem* const problems_[1];
};

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
