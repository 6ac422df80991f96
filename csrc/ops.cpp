// The Python module with the facts of the build and the choice of kernels. The kernels of the
// operators are registered where they are; torchdet/_schemas.py has their schemas. No
// computation.
#include <pybind11/pybind11.h>

#include <string>
#include <utility>

#include "cpu/dispatch/kernel_table.h"
#include "cuda/runtime.h"
#include "cuda/select.h"

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
  std::string driver_problem;
  add_classes(classes, "cpu", torchdet::kCpuSizeClasses);
#ifdef TORCHDET_CUDA_ARCHITECTURES
  architectures.append(TORCHDET_CUDA_ARCHITECTURES);
  add_classes(classes, "cuda", torchdet::kCudaSizeClasses);
  driver_problem = torchdet::cuda_driver_problem();
#endif
  info["cuda_architectures"] = architectures;
  info["cuda_driver_problem"] = driver_problem;
  info["torch_abi"] = "stable, torch >= 2.10";
  info["size_classes"] = classes;
  info["least_kept"] = torchdet::kLeastKept;
  info["least_kept_complex"] = torchdet::kLeastKeptComplex;
  info["least_both_results"] = torchdet::kLeastBothResults;
  info["least_factors"] = torchdet::kLeastFactors;
  return info;
}

template <typename X, size_t kCount>
X by_name(const char* what, const std::string& name,
          const std::pair<const char*, X> (&all)[kCount]) {
  std::string names;
  for (const auto& [known, value] : all) {
    if (name == known) {
      return value;
    }
    names += std::string(names.empty() ? "" : ", ") + known;
  }
  throw pybind11::value_error("select: expected " + std::string(what) + " to be one of " + names +
                              ", got " + name);
}

// What csrc/select.h says of an operator; target: an instruction set or "cuda".
pybind11::dict select_kernel(const std::string& op, const std::string& dtype, int64_t n,
                             const std::string& target) {
  using torchdet::Dtype, torchdet::Op;
  static constexpr std::pair<const char*, Op> kOps[] = {
      {"det", Op::kDet},
      {"slogdet", Op::kSlogdet},
      {"det_frexp", Op::kDetFrexp},
      {"cofactor", Op::kCofactor},
      {"det_backward", Op::kDetBackward},
      {"slogdet_backward", Op::kSlogdetBackward},
      {"det_hvp", Op::kDetHvp},
      {"slogdet_hvp", Op::kSlogdetHvp},
      {"_det_frexp_jet", Op::kDetJet},
  };
  static constexpr std::pair<const char*, Dtype> kDtypes[] = {
      {"float32", Dtype::kFloat},
      {"float64", Dtype::kDouble},
      {"complex64", Dtype::kComplexFloat},
      {"complex128", Dtype::kComplexDouble},
  };
  static constexpr std::pair<const char*, int> kTargets[] = {
      {"avx512", 64}, {"avx2", 32}, {"portable", 16}, {"cuda", 0}};
  const int vector_bytes = by_name("target", target, kTargets);
  const Op of = by_name("operator", op, kOps);
  const Dtype numbers = by_name("dtype", dtype, kDtypes);
  const torchdet::Choice choice = vector_bytes == 0
                                      ? torchdet::select_cuda(of, numbers, n)
                                      : torchdet::select_cpu(of, numbers, n, vector_bytes);
  pybind11::dict row;
  row["size_class"] = choice.size_class->name;
  row["owner"] = choice.size_class->owner;
  row["reason"] = choice.size_class->reason;
  row["largest_n"] = choice.largest_n;
  row["file"] = choice.file;
  return row;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Determinant kernels; importing this module registers them for torch.ops.torchdet.*";
  m.def("build_info", &build_info,
        "Facts of this build: compiler, instruction sets, size classes.");
  m.def("select", &select_kernel, pybind11::arg("operator"), pybind11::arg("dtype"),
        pybind11::arg("n"), pybind11::arg("target"),
        "The size class that serves an operator, up to which order, and the file of its kernel.");
}
