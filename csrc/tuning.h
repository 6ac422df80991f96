// The constants of the CPU kernels that were found by measurement, with what was measured. Which
// size class serves an order stands in select.h. Measured were bare kernels, outputs at hand,
// on one core of a Xeon with AVX-512 (48 KB of L1, 1.25 MB of L2): ns per matrix, or shares of the
// rate at which a tile of a product is computed in the cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

namespace torchdet {

// --- One matrix per lane: math/ ---

// Orders up to these are worth unrolled code. ns on an EPYC with AVX-512, unrolled / not: float32
// cofactors at n = 9: 45 / 59, n = 12: 91 / 106, n = 14: 138 / 193 (rows), det at n = 9: 20 / 27,
// n = 14: 61 / 68, n = 16: 96 / 94; complex64 cofactors at n = 7: 58 / 68, n = 9: 113 / 137, n =
// 10: 150 / 155. With AVX2, det float32 at n = 9: 29 / 34, n = 12: 59 / 63, n = 14: 109 / 92,
// cofactors at n = 10: 90 / 129; complex64 at n = 8: 132 / 196.
struct UnrolledOrders {
  int real, complex;
};
constexpr UnrolledOrders unrolled_orders(int vector_bytes) {
  return vector_bytes == 64   ? UnrolledOrders{14, 9}
         : vector_bytes == 32 ? UnrolledOrders{12, 9}
                              : UnrolledOrders{8, 6};
}

// Orders up to this one have steps of their own for reading and writing, unrolled. At n = 9 to 14
// that gains 1 to 5 %, and takes a tenth more time to compile.
constexpr int kLargestOwnSteps = 8;

// From this order on, rows of cofactors that were exchanged find their places on their way to
// memory, each by itself, and not in registers. float32 cofactors, ns so / in registers: n = 5:
// 10.6 / 9.9, n = 6: 15.7 / 14.4, n = 7: 25.5 / 25.7, n = 8: 31.5 / 33.5, n = 12: 110 / 123.
// Complex numbers gain at every order.
constexpr int kLeastRowsApart = 7;

// Columns of cofactors that are computed together. float32, for 2 / 4 / 8: all within 5 % at n = 6,
// 8 and 10. Eight of complex numbers would not stay in registers.
constexpr int kCofactorColumns = 4, kComplexCofactorColumns = 2;

// How far ahead of a tile its successors are fetched, at least the one after the next. ms for det
// of 256 MB of float32 on an EPYC, where a sum takes 7, for one tile between / 2048 / 4096 / 8192 /
// 16384: n = 2: 19.0 / 16.9 / 16.0 / 14.8 / 14.7, n = 3: 18.6 / 18.7 / 18.1 / 18.1 / 17.9, n = 4:
// 18.2 / 18.4 / 16.3 / 15.0 / 15.3.
constexpr int kBytesAhead = 8192;

// Columns of a row that are exchanged and updated together. float32, for 4 / 8: det at n = 12 takes
// 84 / 77.
constexpr int kLuColumns = 8, kComplexLuColumns = 4;

// --- Rows in packs: cpu/rows/kernels.h ---

// The most packs per row for which each number has kernels of its own; with packs of 16 bytes
// they would cost much to compile. ns for det and cofactors, packs known at run time / at compile
// time, with AVX-512 and then with AVX2:
//   float64 n = 33: 1240 / 1060, 2480 / 2000    n = 48: 2470 / 2300, 4850 / 4290
//           n = 64: 5130 / 4950, 9790 / 9770
//   complex64 n = 80: 12740 / 14630, 24800 / 29030
//   float32 n = 33: 1140 / 870, 2110 / 1810     n = 48: 2170 / 1830, 4380 / 3860
//           n = 64: 4000 / 4100, 8040 / 8580
//   float64 n = 24: 920 / 740, 1500 / 1280      n = 32: 1580 / 1510, 2730 / 2690
//   complex64 n = 48: 5710 / 5540, 10800 / 10520
constexpr int own_packs(int vector_bytes, int number_bytes, bool is_complex) {
  return vector_bytes == 16 ? 0 : is_complex ? 4 : vector_bytes == 32 && number_bytes == 4 ? 7 : 8;
}

// The packs that the rows of a determinant shrink to when that few columns are left, or 0. A third
// of its operations would be in columns that are used up; moving the others together takes an
// instruction that AVX-512 has. ns for det there, without / with it:
//   float32   n = 65: 3450 / 3140    n = 96: 7850 / 7160    n = 128: 16930 / 14920
//   float64   n = 40: 1380 / 1470    n = 56: 3440 / 3340    n = 64: 4720 / 4620
// More than eight become eight, and then four: by way of twelve, float64 at n = 128 takes 28150 ns
// instead of 28100, and at n = 98 16000 instead of 14900.
constexpr int fewer_packs(int vector_bytes, int packs, int number_bytes, bool is_complex) {
  if (vector_bytes < 64 || is_complex) {
    return 0;
  }
  const int least = number_bytes == 4 ? 5 : 7;
  return packs > 8 ? 8 : packs >= least ? 4 : 0;
}

// The largest (2) of cpu/rows/det_hvp.h with which a sweep serves for Hessian-vector products. Of
// 6000 matrices with tiny singular values, errors in units of tests/units.py were up to 0.15 at n =
// 13 in float32 and 0.4 in complex64 with 64, and up to 0.7 and 1.1 at n = 9 with 450. About one
// random normal matrix in a hundred exceeds 64, at any n from 16 to 100.
constexpr int kLargestSensitivity = 64;

// Matrices that advance side by side, by packs per row, or 0 for any number of them: while one
// waits for its pivot, the others use the core. On an EPYC with AVX-512, for 1 / 2 / 3 / 4:
//   det float32 n = 32: 701 / 499 / 441 / 428    n = 48: 1490 / 1158 / 1660
//               n = 64: 2796 / 2371 / 2466       float64 n = 32: 990 / 762 / 757
//   det float64 n = 40: 1796 / 1553              complex128 n = 40: 3972 / 5549
//   cofactor float32 n = 16: 350 / - / 222 / 229    n = 32: 1132 / 936 / 913 / 875
//                    n = 48: 2737 / 2378            n = 64: 5416 / 4954
//   cofactor float64 n = 64: 9629 / 10405           det float64 with AVX2 n = 28: 1161 / 1280
// Where strips serve (below), a matrix goes alone.
constexpr int row_group(int vector_bytes, int packs) {
  const bool by_strips = vector_bytes == 64 && packs == 8;
  return packs == 0 || by_strips ? 1 : packs <= 2 ? 4 : 2;
}

// Long rows: more than eight packs, whose number is not known at compile time, and exactly eight.
// With 32 registers four steps share a pass, by strips of three to five packs; with 16, where there
// are more than eight, four rows together share what is loaded of a step. ns for cofactors on an
// EPYC, without / with it (strips of four packs, and of one for the rest; those of three to five
// then gained up to 6 %):
//   AVX-512 float64   n = 65: 11700 / 10570   n = 96: 30950 / 27230   n = 128: 63180 / 58180
//   AVX2 float64      n = 48: 7410 / 6770     n = 56: 11260 / 10230   n = 64: 17360 / 14210
//   AVX2 float32      n = 65: 9760 / 9530     n = 80: 15750 / 14900   n = 96: 24140 / 23510
//   16 bytes float32  n = 24: 2060 / 2010     n = 32: 3990 / 3740     n = 64: 26180 / 23920
// and with eight packs, two matrices side by side / by strips, det and cofactors:
//   float64 n = 57: 3880 / 4050, 7890 / 7630        n = 64: 4680 / 4680, 9840 / 8960
//   float32 n = 113: 12200 / 12110, 26640 / 25550   n = 128: 15810 / 15210, 34260 / 32140
// The other way around, AVX-512 n = 128: 75640, AVX2 n = 64: 15770. Shorter rows lose by either
// (AVX-512 float32 n = 96 by strips: 14350 / 15400, float64 n = 40: 3030 / 3260; AVX2 float32 n =
// 48, together: 4330 / 4480), complex numbers gain nothing.
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
// as many as leave room for the packs of one source row and a factor. Tiles of 12 x 2, 7 x 3,
// 6 x 4, 5 x 5 and 4 x 6 are no faster than 8 x 3.
struct ProductTile {
  int rows, packs, complex_packs;
};
constexpr ProductTile kTileOf32Registers = {8, 3, 1}, kTileOf16Registers = {4, 2, 1};

// Tiles whose factors stay in the cache beside a strip of sources: 6 tiles of 8 rows with 64
// factors are 24 KB in float64, and the strip is 12 KB.
constexpr int kTilesInCache = 6;

// Columns of a panel: few enough to be a small part of the work, many enough that an update does
// more than move the matrix through the cache. Multiples of every pack's width. Shares for
// cofactors, when the panels were those of a Gauss-Jordan elimination:
//   float64     16 / 32 / 64:   31 / 30 / 26 % at n = 96    39 / 41 / 35 % at n = 160
//                               47 / 48 / 43 % at n = 256   45 / 50 / 48 % at n = 384
//   float64     32 / 64 / 128:  53 / 53 / 45 % at n = 512   58 / 60 / 56 % at n = 1024
//   complex128  16 / 32 / 64:   54 / 50 / 43 % at n = 192   55 / 54 / 45 % at n = 256
//                               59 / 60 / 53 % at n = 436   53 / 62 / 56 % at n = 900
// and milliseconds for cofactors as they are now, on an EPYC with AVX-512:
//   float64     16 / 32 / 64:   0.036 / 0.037 / 0.039 at n = 96    0.44 / 0.43 / 0.45 at n = 256
//                               3.06 / 3.04 / 3.05 at n = 512      23.4 / 22.8 / 23.2 at n = 1024
//   complex128  16 / 32 / 64:   0.61 / 0.65 / 0.69 at n = 192      1.40 / 1.49 / 1.53 at n = 256
//                               6.7 / 6.9 / 7.0 at n = 436         56.8 / 58.1 / 57.5 at n = 900
struct PanelWidth {
  int64_t largest_n, columns, complex_columns;
};
constexpr PanelWidth kPanelWidths[] = {
    {160, 16, 16}, {384, 32, 16}, {std::numeric_limits<int64_t>::max(), 64, 32}};

// Bytes of a matrix from which on an update fetches the next tile while it works on one. Shares for
// cofactors, without and with: float64, 51 / 51 % at n = 512, 57 / 59 % at 700, 56 / 61 % at 850,
// 67 / 75 % at 1024; complex128, 60 / 64 % at n = 640. On the EPYC 1 to 2 % are lost by it at n =
// 850 and 1024.
constexpr int64_t kLeastFetchedAhead = 4 << 20;
constexpr size_t kCacheLine = 64;

// --- LDU: cpu/matrix/triangular.h, cpu/fallback/ldu.h, cpu/fallback/rank_revealing.h ---

// Rows of the sources of a product that are taken together, and rows of a triangular system that
// are solved together. Systems of 128 and 192 rows at a time are no faster at n = 256 to 1024.
constexpr int64_t kProductDepth = 64;

// The largest max |L^-1| max |U^-1| with which the factors of partial pivoting serve: errors of
// Hessian-vector products are some 0.03 of it in units of tests/units.py, and at most 1.8 units
// for 64. One or two random normal matrices in a hundred exceed it, at any n from 64 to 512.
constexpr int kLargestGrowth = 64;

// --- Threads: cpu/dispatch/operators.cpp, cpu/blocked/lu.h, cpu/blocked/kernels.h ---

// Multiply-adds that are worth a thread of their own: of matrices of a batch, and of the parts of
// one matrix, a step of its LU and its inverse. A thread that is awake costs little: with 2^19 and
// 2^21 two threads take 0.85 of the time of one for a gradient at n = 192 to 256, measured on an
// EPYC. But one that has to be woken costs 50 to 100 microseconds there, and the same two take 1.3
// to 1.4 times as long as one at n = 160 to 384. With these constants two threads begin at n = 293
// in the inverse, and take 0.7 at n = 512 and 0.65 at 1024.
constexpr int64_t kGrainOfBatch = 1 << 18, kGrainOfMatrix = 1 << 21, kGrainOfInverse = 1 << 24;

// From this order on, fewer matrices than threads are taken one after the other, each by all.
constexpr int64_t kLeastShared = 256;

}  // namespace torchdet
