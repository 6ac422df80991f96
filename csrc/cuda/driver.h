// The CUDA driver that is installed, and whether kernels of this build run on it.
#pragma once

#include <dlfcn.h>

#include <string>

namespace torchdet {

// The newest CUDA that the driver knows, as CUDA writes it: 12080 is 12.8. 0 without a driver.
// The driver is asked without the runtime and without cuInit, after which a process could not fork.
inline int installed_driver() {
  int version = 0;
  if (void* const library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL)) {
    using Ask = int (*)(int*);
    if (const Ask ask = reinterpret_cast<Ask>(dlsym(library, "cuDriverGetVersion"))) {
      version = ask(&version) == 0 ? version : 0;
    }
  }
  return version;
}

// Kernels of one CUDA run on every driver of the same or a newer major version.
inline std::string driver_problem(int driver, int runtime) {
  const auto name = [](int version) {
    return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
  };
  if (driver == 0 || driver / 1000 >= runtime / 1000) {
    return "";
  }
  const std::string major = std::to_string(runtime / 1000);
  return "the CUDA kernels of this build are compiled with CUDA " + name(runtime) +
         ": expected a driver for CUDA " + major + " or newer, got one for CUDA " + name(driver) +
         ". CUDA tensors are served by plain PyTorch: results are right, but slower. For the "
         "kernels, install a newer NVIDIA driver, or build torchdet with CUDA " +
         std::to_string(driver / 1000) + " (nvidia-smi shows the CUDA version of the driver)";
}

}  // namespace torchdet
