// The Python module with the facts of the build. The kernels of the operators are registered where
// they are; torchdet/_ops.py has the operators' schemas. No computation.
#include <pybind11/pybind11.h>

#include "cpu/kernels.h"
#include "size_class.h"

namespace {

template <size_t kCount>
void add_classes(pybind11::list& classes, const char* device,
                 const torchdet::SizeClass (&table)[kCount]) {
  for (const torchdet::SizeClass& size_class : table) {
    pybind11::dict row;
    row["device"] = device;
    row["name"] = size_class.name;
    row["largest_n"] = size_class.largest_n;
    row["owner"] = size_class.owner;
    classes.append(row);
  }
}

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
  py::list architectures, classes;
  add_classes(classes, "cpu", torchdet::kCpuSizeClasses);
#ifdef TORCHDET_CUDA_ARCHITECTURES
  architectures.append(TORCHDET_CUDA_ARCHITECTURES);
  add_classes(classes, "cuda", torchdet::kCudaSizeClasses);
#endif
  info["cuda_architectures"] = architectures;
  info["torch_abi"] = "stable, torch >= 2.10";
  info["size_classes"] = classes;
  info["least_kept"] = torchdet::kLeastKept;
  info["least_factors"] = torchdet::kLeastFactors;
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Determinant kernels; importing this module registers them for torch.ops.torchdet.*";
  m.def("build_info", &build_info,
        "Facts of this build: compiler, instruction sets, size classes.");
}
