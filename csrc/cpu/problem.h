// What the operators hand to the kernels: plain pointers and strides, no tensor type, so that
// kernels compile in seconds for every instruction set and know nothing of torch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../size_class.h"

namespace torchdet {

enum class Op { kDet, kSlogdet, kCofactor, kDetBackward, kSlogdetBackward, kDetHvp };
enum class Dtype { kFloat, kDouble, kComplexFloat, kComplexDouble };
constexpr int kDtypes = 4;

// A batch of matrices, or of numbers, with any strides (in elements).
struct BatchView {
  static constexpr int kMaxDims = 64;
  const void* data = nullptr;
  int64_t row_stride = 0, column_stride = 0;
  int dims = 0;  // batch dimensions that remain after merging the mergeable ones
  int64_t sizes[kMaxDims], strides[kMaxDims];

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
  int64_t offset(int64_t index) const {
    int64_t offset = 0;
    for (int d = dims - 1; d > 0; --d) {
      offset += index % sizes[d] * strides[d];
      index /= sizes[d];
    }
    return dims > 0 ? offset + index * strides[0] : 0;
  }
};

struct Problem {
  Op op = Op::kDet;
  int64_t n = 0;
  BatchView A;
  BatchView other;            // grad (numbers) or Z (matrices)
  void* out = nullptr;        // contiguous
  void* logabsdet = nullptr;  // slogdet only, contiguous
};

// Computes matrices [begin, end) of the batch.
using Kernel = void (*)(const Problem&, int64_t begin, int64_t end);

// The kernels of one instruction set for one dtype. Operators that differ only in how they finish
// share a kernel.
struct Kernels {
  Kernel determinants, cofactors, hvp;
};

// small[n] for the orders of the first two size classes, blocked for those above.
struct KernelTable {
  const char* name;
  Kernels small[kDtypes][kLargestRows + 1], blocked[kDtypes];

  const Kernels& select(Dtype dtype, int64_t n) const {
    const int d = static_cast<int>(dtype);
    return n <= kLargestRows ? small[d][n] : blocked[d];
  }
};

void add_portable_float(KernelTable& table);
void add_portable_double(KernelTable& table);
void add_avx2_float(KernelTable& table);
void add_avx2_double(KernelTable& table);
void add_avx512_float(KernelTable& table);
void add_avx512_double(KernelTable& table);

// The table for this processor, or the one that TORCHDET_CPU_CAPABILITY names.
const KernelTable& active_kernels();
std::vector<const char*> built_instruction_sets();

// Grow-only work space of the calling thread, aligned to 64 bytes; valid until the next call on the
// same thread.
void* thread_scratch(size_t bytes);

}  // namespace torchdet
