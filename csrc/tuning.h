// The constants of the CPU kernels that were found by measurement, with one reason each; which size
// class serves an order stands in select.h. `make tune` measures most of them anew and writes the
// times to bench/tuning.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

namespace torchdet {

// --- One matrix per lane: math/ ---

// Orders up to these are worth unrolled code: above, loops are as fast.
struct UnrolledOrders {
  int real, complex;
};
constexpr UnrolledOrders unrolled_orders(int vector_bytes) {
  return vector_bytes == 64   ? UnrolledOrders{14, 9}
         : vector_bytes == 32 ? UnrolledOrders{12, 9}
                              : UnrolledOrders{8, 6};
}

// Orders up to this one have steps of their own for reading and writing, unrolled: above, that
// gains a few percent, and takes a tenth more time to compile.
constexpr int kLargestOwnSteps = 8;

// Second derivatives of log|det| have unrolled code of their own up to this order, which takes half
// to a quarter of the time; at n = 8 that loses.
constexpr int kLargestOwnProducts = 6;

// From this order on one kernel writes a gradient of log|det|, or that and the inverse: below, a
// loop over the results would take 4 to 40 % longer where one is asked for.
constexpr int64_t kLeastLoopOverResults = 9;

// From this order on, exchanged rows of cofactors find their places on their way to memory: in
// registers each row costs a selection from all others.
constexpr int kLeastRowsApart = 7;

// Columns of cofactors that are computed together: as many as stay in registers.
constexpr int kCofactorColumns = 4, kComplexCofactorColumns = 2;

// How far ahead of a tile its successors are fetched, at least the one after the next: the time of
// memory, of a few tiles of n = 2 to 4.
constexpr int kBytesAhead = 8192;

// Columns of a row that are exchanged and updated together: as many as stay in registers.
constexpr int kLuColumns = 8, kComplexLuColumns = 4;

// --- Rows in packs: cpu/rows/gauss_jordan.h, state.h and det_hvp.h, cpu/targets/fill_table.h ---

// The most packs per row for which each number has kernels of its own: longer rows gain nothing by
// loops of known length, and packs of 16 bytes would have too many kernels to compile.
constexpr int own_packs(int vector_bytes, int number_bytes, bool is_complex) {
  return vector_bytes == 16 ? 0 : is_complex ? 4 : vector_bytes == 32 && number_bytes == 4 ? 7 : 8;
}

// The packs that the rows of a determinant shrink to when that few columns are left, or 0: a third
// of its operations would be in columns that are used up. Only AVX-512 moves the others together in
// one instruction.
constexpr int fewer_packs(int vector_bytes, int packs, int number_bytes, bool is_complex) {
  if (vector_bytes < 64 || is_complex) {
    return 0;
  }
  const int least = number_bytes == 4 ? 5 : 7;
  return packs > 8 ? 8 : packs >= least ? 4 : 0;
}

// The largest (2) of cpu/rows/det_hvp.h with which an elimination serves for Hessian-vector
// products: errors stay below half a unit of tests/units.py, and one random normal matrix in a
// hundred exceeds it.
constexpr int kLargestSensitivity = 64;

// Matrices that advance side by side, by packs per row, or 0 for any number of them: while one
// waits for its pivot, the others use the core. Where strips serve (below), a matrix goes alone.
constexpr int row_group(int vector_bytes, int packs) {
  const bool by_strips = vector_bytes == 64 && packs == 8;
  return packs == 0 || by_strips ? 1 : packs <= 2 ? 4 : 2;
}

// Long rows: more than eight packs, whose number is not known at compile time, and exactly eight.
// With 32 registers four steps share a pass, by strips of three to five packs; with 16, where there
// are more than eight, four rows together share what is loaded of a step. Shorter rows lose by
// either, and complex numbers gain nothing.
struct LongRows {
  bool by_strips;
  int together;
};
// packs: 0 for any number of them, at most most_packs.
constexpr LongRows long_rows(int vector_bytes, int packs, int most_packs) {
  const bool are_more = packs == 0 && most_packs > 8;
  return vector_bytes == 64 ? LongRows{are_more || packs == 8, 1}
                            : LongRows{false, are_more ? 4 : 1};
}

// --- Blocked elimination: cpu/matrix/product.h, cpu/blocked/panel.h, cpu/blocked/lu.h ---

// The tile of a product that stays in registers, where there are 32 of them and where there are 16:
// as many as leave room for the packs of one source row and a factor.
struct ProductTile {
  int rows, packs, complex_packs;
  int product_packs;  // of real numbers where a product is all that is done
};
constexpr ProductTile kTileOf32Registers = {8, 3, 1, 3}, kTileOf16Registers = {4, 2, 1, 3};

// Tiles whose factors stay in the cache beside a strip of sources: 6 tiles of 8 rows with 64
// factors are 24 KB in float64, and the strip is 12 KB.
constexpr int kTilesInCache = 6;

// Columns of a panel: few enough to be a small part of the work, many enough that an update does
// more than move the matrix through the cache. Multiples of every pack's width.
struct PanelWidth {
  int64_t largest_n, columns, complex_columns;
};
constexpr PanelWidth kPanelWidths[] = {
    {160, 16, 16}, {384, 32, 16}, {std::numeric_limits<int64_t>::max(), 64, 32}};

// Bytes of a matrix from which on an update fetches the next tile while it works on one: smaller
// matrices gain nothing.
constexpr int64_t kLeastFetchedAhead = 4 << 20;
constexpr size_t kCacheLine = 64;

// Bytes of results up to which their place is fetched before an elimination: half of the L1 cache.
// Larger places would push the matrix out of it.
constexpr int64_t kMostExpected = 16 << 10;

// --- LDU: cpu/matrix/triangular.h, cpu/blocked/det_hvp.h ---

// Rows of the sources of a product that are taken together, and rows of a triangular system that
// are solved together: more gain nothing.
constexpr int64_t kProductDepth = 64;

// The largest max |L^-1| max |U^-1| with which the factors of partial pivoting serve: errors stay
// below two units of tests/units.py, and one or two random normal matrices in a hundred exceed it.
constexpr int kLargestGrowth = 64;

// --- Threads: cpu/dispatch/batch.h, cpu/blocked/lu.h and kernels.h, cpu/matrix/triangular.h ---

// Multiply-adds that are worth a thread of their own: of matrices of a batch, and of the parts of
// one matrix, a step of its LU and its inverse. A thread that has to be woken costs 50 to 100
// microseconds.
constexpr int64_t kGrainOfBatch = 1 << 18, kGrainOfMatrix = 1 << 21, kGrainOfInverse = 1 << 24;

// From this order on, fewer matrices than threads are taken one after the other, each by all.
constexpr int64_t kLeastShared = 256;

}  // namespace torchdet
