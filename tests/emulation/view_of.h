// What a kernel is given, from a tensor in the words of torch: the pointer, sizes and strides.
#pragma once

#include "../../csrc/problem.h"

namespace torchdet {

inline BatchView view_of(const void* data, int dims, const int64_t* sizes, const int64_t* strides,
                         int matrix_dims) {
  BatchView view;
  view.data = data;
  for (int d = 0; d < dims - matrix_dims; ++d) {
    view.append(sizes[d], strides[d]);
  }
  if (matrix_dims == 2) {
    view.row_stride = strides[dims - 2];
    view.column_stride = strides[dims - 1];
  }
  return view;
}

}  // namespace torchdet
