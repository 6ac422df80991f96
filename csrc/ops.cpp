// Table of contents: the operators' schemas, and the Python module with the facts of the build. No
// computation.
//
// The schemas are registered through LibTorch's stable ABI, so that one build serves every torch
// from 2.10 on.
#include <pybind11/pybind11.h>
#include <torch/csrc/stable/library.h>

#include "cpu/problem.h"
#include "size_class.h"

STABLE_TORCH_LIBRARY(torchdet, m) {
  m.def("det(Tensor A) -> Tensor");
  m.def("slogdet(Tensor A) -> (Tensor sign, Tensor logabsdet)");
  m.def("cofactor(Tensor A) -> Tensor");
  m.def("det_backward(Tensor grad, Tensor A) -> Tensor");
  m.def("slogdet_backward(Tensor grad, Tensor A) -> Tensor");
  m.def("det_hvp(Tensor A, Tensor Z) -> Tensor");
}

namespace {

pybind11::dict build_info() {
  namespace py = pybind11;
  py::dict info;
  info["compiler"] = TORCHDET_COMPILER;
  py::list instruction_sets;
  for (const char* name : torchdet::built_instruction_sets()) {
    instruction_sets.append(name);
  }
  info["instruction_sets"] = instruction_sets;
  info["active_instruction_set"] = torchdet::active_kernels().name;
  info["cuda_architectures"] = py::list();
  info["torch_abi"] = "stable, torch >= 2.10";
  py::list classes;
  for (const torchdet::SizeClass& size_class : torchdet::kCpuSizeClasses) {
    py::dict row;
    row["device"] = "cpu";
    row["name"] = size_class.name;
    row["largest_n"] = size_class.largest_n;
    row["owner"] = size_class.owner;
    classes.append(row);
  }
  info["size_classes"] = classes;
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() =
      "Determinant kernels; importing this module registers the operators torch.ops.torchdet.*";
  m.def("build_info", &build_info,
        "Facts of this build: compiler, instruction sets, size classes.");
}
