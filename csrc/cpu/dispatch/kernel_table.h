// The CPU kernels of the operators, by dtype and order, and the choice of the instruction set.
#pragma once

#include <algorithm>
#include <vector>

#include "../../problem.h"
#include "../../select.h"

namespace torchdet {

// Computes matrices [begin, end) of the batch.
using Kernel = void (*)(const Problem&, int64_t begin, int64_t end);

struct Kernels : KernelsByOperator<Kernel> {
  // Determinants with what helps the backward pass, and that pass (saved/integers.h), from
  // least_kept on.
  Kernel keep, from_kept;
  // The second derivative of log|det| from an inverse, and derivatives along directions.
  Kernel slogdet_hvp, det_jet;
  // Determinants with their factors, at every order.
  Kernel factor;
};

// small[n] for the orders of the first two size classes, blocked for those above.
struct KernelTable {
  const char* name;
  int vector_bytes;
  Kernels small[kDtypes][kLargestRows + 1], blocked[kDtypes];

  Kernel select(const Problem& p, Dtype dtype) const {
    const int d = static_cast<int>(dtype);
    const Kernels& kernels = p.n <= kLargestRows ? small[d][p.n] : blocked[d];
    return p.kept != nullptr            ? kernels.from_kept
           : keeps(p.op)                ? kernels.keep
           : p.op == Op::kSlogdetHvp    ? kernels.slogdet_hvp
           : p.op == Op::kDetJet        ? kernels.det_jet
           : p.op == Op::kSlogdetFactor ? kernels.factor
                                        : kernels.select(p.op);
  }
};

// Enters the kernels of one instruction set and precision; null where the build leaves them out
// (targets/absent.cpp).
using AddKernels = void (*)(KernelTable&);
extern const AddKernels add_avx512_float, add_avx512_double;
extern const AddKernels add_avx2_float, add_avx2_double;
extern const AddKernels add_portable_float, add_portable_double;

// The table for this processor, or the one that TORCHDET_CPU_CAPABILITY names.
const KernelTable& active_kernels();
std::vector<const char*> built_instruction_sets();

}  // namespace torchdet
