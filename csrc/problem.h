// What the operators hand to the kernels: plain pointers and strides, no tensor type, so that
// kernels compile in seconds for every instruction set and know nothing of torch.
#pragma once

#include <cstdint>
#include <limits>

#ifdef __CUDACC__
#define TORCHDET_ANYWHERE __host__ __device__
#else
#define TORCHDET_ANYWHERE
#endif

namespace torchdet {

enum class Op {
  kDet,
  kSlogdet,
  kCofactor,
  kDetBackward,
  kSlogdetBackward,
  kDetHvp,
  kDetKeep,
  kSlogdetKeep,
  kDetFrexp,    // mantissa and, in place of the logarithm, exponent
  kSlogdetHvp,  // A holds conj(A^-T)
  kDetJet,      // `determinant` takes the first and `out` the second derivatives along directions
  kSlogdetFactor,   // a determinant, and in `out` and `integers` the factors (cpu/saved/integers.h)
  kDetBackwardJvp,  // of_cofactor conj(C(A)) + of_hvp conj(H(A)[Z])
};

// grad conj(C(A)) or grad conj(A^-T).
TORCHDET_ANYWHERE constexpr bool multiplies_grad(Op op) {
  return op == Op::kDetBackward || op == Op::kSlogdetBackward;
}
// A determinant and what helps a backward pass to come (cpu/saved/integers.h, cuda/large/kept.h).
TORCHDET_ANYWHERE constexpr bool keeps(Op op) {
  return op == Op::kDetKeep || op == Op::kSlogdetKeep;
}
// The first of the integers that are kept of a matrix where nothing else is: backward starts from
// A.
constexpr int32_t kNotKept = std::numeric_limits<int32_t>::min();

enum class Dtype { kFloat, kDouble, kComplexFloat, kComplexDouble };
constexpr int kDtypes = 4;

// A batch of matrices, or of numbers, with any strides (in elements).
struct BatchView {
  static constexpr int kMaxDims = 64;
  const void* data = nullptr;
  int64_t row_stride = 0, column_stride = 0;
  int dims = 0;  // batch dimensions that remain after merging the mergeable ones
  int64_t sizes[kMaxDims], strides[kMaxDims];

  TORCHDET_ANYWHERE BatchView() {}  // so that {} does not fill the arrays with zeros
  void append(int64_t size, int64_t stride) {
    if (size == 1) {
      return;
    }
    if (dims > 0 && strides[dims - 1] == size * stride) {
      sizes[dims - 1] *= size;
      strides[dims - 1] = stride;
      return;
    }
    sizes[dims] = size;
    strides[dims++] = stride;
  }
  BatchView transposed() const {
    BatchView view = *this;
    view.row_stride = column_stride;
    view.column_stride = row_stride;
    return view;
  }
  TORCHDET_ANYWHERE int64_t offset(int64_t index) const {
    int64_t offset = 0;
#ifdef __CUDACC__
#pragma unroll 1  // a division of 64 bits is long, and few batches have two dimensions
#endif
    for (int d = dims - 1; d > 0; --d) {
      offset += index % sizes[d] * strides[d];
      index /= sizes[d];
    }
    return dims > 0 ? offset + index * strides[0] : 0;
  }
};

// What the CUDA class "large" keeps in global memory. Matrices are n x n numbers each, one after
// the other (cuda/large/space.h).
struct LargeBuffers {
  // workspace_stride bytes for each matrix of the batch.
  void* workspace = nullptr;
  int64_t workspace_stride = 0;
  int64_t ldu_blocks = 0;  // blocks that share the matrices left to the LDU
  // B row after row, which is B^T column after column; then the factors of B^T as LAPACK has them.
  void* factors = nullptr;
  int32_t* pivots = nullptr;  // row exchanges of B^T, counted from 1
  void* inverse = nullptr;    // I, then conj(B^-T) row after row
};

struct Problem {
  Op op = Op::kDet;
  int64_t n = 0;      // order of the matrices
  int64_t batch = 0;  // their number
  BatchView A = {};
  BatchView other = {};  // grad (numbers) or Z (matrices)
  // kDetJet: how many directions each matrix has, and how far apart they lie in `other`.
  int64_t directions = 0, direction_stride = 0;
  // Results, contiguous.
  void* out = nullptr;          // matrices
  void* determinant = nullptr;  // numbers: det or, with logabsdet, the sign
  void* logabsdet = nullptr;    // or the exponent, in the same format
  // CPU only: whole numbers in the real format, contiguous, or nothing. Cofactors and derivatives
  // come multiplied by 2^-shift.
  const void* shift = nullptr;
  // kDetBackwardJvp: numbers, contiguous. kSlogdetHvp on the CPU: the second, or nothing.
  const void* of_cofactor = nullptr;
  const void* of_hvp = nullptr;
  // Of a matrix a forward pass keeps n x n numbers, in `out`, and integers.
  int32_t* integers = nullptr;
  // What a backward pass reads of them, or nothing.
  const void* kept = nullptr;
  const int32_t* kept_integers = nullptr;
  // CPU, from kLeastBothResults on: where kSlogdetBackward writes conj(A^-T) as well, or nothing.
  void* inverse = nullptr;
  LargeBuffers large = {};  // CUDA, class "large" only
};

// One kernel for each kind of result. Operators that differ only in how they finish share it.
template <typename Kernel>
struct KernelsByOperator {
  Kernel determinants, cofactors, hvp;

  constexpr const Kernel& select(Op op) const {
    switch (op) {
      case Op::kDet:
      case Op::kSlogdet:
      case Op::kDetFrexp:
        return determinants;
      case Op::kDetHvp:
      case Op::kDetBackwardJvp:
      case Op::kSlogdetHvp:  // CPU: kernels of their own, for orders that are split like these
      case Op::kDetJet:
        return hvp;
      default:
        return cofactors;
    }
  }
};

}  // namespace torchdet
