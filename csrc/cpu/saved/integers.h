// What a forward pass keeps for the backward pass: of a matrix n x n numbers, and integers. Nothing
// of it is ever written to again, since other graphs, hooks and users may still read it.
//
// In the class "rows" the numbers are the equilibrated matrix after the first half of a
// Gauss-Jordan elimination (rows/second_half.h), each pivot in its place, and the integers tell
// those places and the equilibration. In the class "blocked" the numbers are P B Q = L D U of the
// equilibrated matrix, as blocked/lu.h has it, and the integers are the permutations and the
// equilibration.
//
// The first integer is kNotKept where nothing is kept; backward then starts from A. It does so,
// too, where the integers cannot come from a forward pass: whatever they are, no index leads out of
// the matrix and no sum of exponents overflows.
#pragma once

#include "../../problem.h"
#include "../../select.h"
#include "../matrix/results.h"

namespace torchdet {
inline namespace TORCHDET_CAPABILITY {

// The integers that go with the first half of a Gauss-Jordan elimination: whether the permutation
// is odd, and for each k the column of its pivot and the exponents of row and column k, packed into
// one int32.
template <typename P>
class KeptGauss {
 public:
  using Integer = typename Frame<P>::Integer;

  // False where an exponent has no room.
  TORCHDET_LANE static bool write(const Problem& p, int64_t b, bool odd, const int32_t* columns,
                                  const Frame<P>& frame) {
    int32_t* const to = p.integers + b * count_of_kept_integers(p.n);
    Integer beyond = 0;
    for (int64_t k = 0; k < p.n; ++k) {
      const Integer r = frame.rows()[k] + kBias, c = frame.columns()[k] + kBias;
      beyond |= (r | c) >> kExponentBits;
      to[1 + k] = static_cast<int32_t>(
          (static_cast<uint32_t>(c) << kExponentBits | static_cast<uint32_t>(r)) << kColumnBits |
          static_cast<uint32_t>(columns[k]));
    }
    to[0] = odd;
    std::fill(to + 1 + p.n, to + count_of_kept_integers(p.n), 0);
    return beyond == 0;
  }

  // False where nothing is kept, or where the columns are no permutation.
  TORCHDET_LANE static bool read(const Problem& p, int64_t b, bool& odd, int32_t* columns,
                                 const Frame<P>& frame) {
    const int32_t* const from = p.kept_integers + b * count_of_kept_integers(p.n);
    if (from[0] != 0 && from[0] != 1) {
      return false;
    }
    odd = from[0];
    uint64_t seen[(1 << kColumnBits) / 64] = {};
    bool inside = true;
    for (int64_t k = 0; k < p.n; ++k) {
      const auto all = static_cast<uint32_t>(from[1 + k]);
      const int32_t column = all & ((1 << kColumnBits) - 1);
      columns[k] = column;
      frame.rows()[k] = Integer(all >> kColumnBits & (2 * kBias - 1)) - kBias;
      frame.columns()[k] = Integer(all >> (kColumnBits + kExponentBits)) - kBias;
      inside = inside && column < p.n;
      seen[column / 64] |= uint64_t(1) << (column % 64);
    }
    for (int64_t j = 0; j < p.n; j += 64) {  // n different columns below n are all of them
      const int64_t rest = p.n - j;
      inside = inside && seen[j / 64] == (rest < 64 ? (uint64_t(1) << rest) - 1 : ~uint64_t(0));
    }
    return inside;
  }

 private:
  static constexpr int kColumnBits = 8, kExponentBits = 12;
  static constexpr Integer kBias = 1 << (kExponentBits - 1);
  static_assert(kLargestRows <= 1 << kColumnBits);
};

// The integers that go with the factors of matrix b. Element: int32_t, or const int32_t.
template <typename Element>
class KeptFactors {
 public:
  KeptFactors(Element* integers, int64_t n, int64_t b)
      : n_(n), integers_(integers + b * count_of_factor_integers(n)) {}
  Element& sign() const { return integers_[0]; }  // of P and Q, or kNotKept
  Element& exchanged() const { return integers_[1]; }
  Element* rows() const { return integers_ + 2; }
  Element* row_exponents() const { return rows() + n_; }
  Element* column_exponents() const { return row_exponents() + n_; }

  // False where nothing is kept, where the rows are no permutation, and where an exponent is beyond
  // those of numbers. seen: space for n integers.
  bool are_usable(int32_t* seen) const {
    const auto inside = [&](int32_t i) { return 0 <= i && i < n_; };
    bool all = (sign() == 1 || sign() == -1) && inside(exchanged());
    std::fill(seen, seen + n_, 0);
    for (int64_t k = 0; k < n_ && all; ++k) {
      all = inside(rows()[k]) && seen[rows()[k]]++ == 0;
      for (const int32_t e : {row_exponents()[k], column_exponents()[k]}) {
        all = all && -kLargestExponent <= e && e <= kLargestExponent;
      }
    }
    return all;
  }

 private:
  static constexpr int32_t kLargestExponent = 1 << 13;
  int64_t n_;
  Element* integers_;
};

// Leaves nothing for the backward pass, and nothing unwritten.
template <typename P>
[[gnu::noinline]] void keep_nothing(const Problem& p, int64_t b) {
  NumberOf<P>* const out = result_matrix<P>(p, b);
  std::fill(out, out + p.n * p.n, zero<NumberOf<P>>());
  const int64_t count =
      p.op == Op::kSlogdetFactor ? count_of_factor_integers(p.n) : count_of_kept_integers(p.n);
  int32_t* const integers = p.integers + b * count;
  std::fill(integers, integers + count, 0);
  *integers = kNotKept;
}

}  // namespace TORCHDET_CAPABILITY
}  // namespace torchdet
