// The stream on which torch lets a thread work.
#pragma once

#include <dlfcn.h>

#include <cstdint>

namespace torchdet {

// Returns 0 where it succeeds.
using CurrentStream = int32_t (*)(int32_t device, void** stream);

// torch's function for it, or null if torch is without CUDA. Only libtorch_cuda.so has it, which
// torch loads with symbols for itself alone, and which this library need not be linked with: its
// headers for a CPU-only torch do not declare the function, and a linker may drop a library of
// which nothing else is used. So the library is asked for by its name, as it is loaded.
inline CurrentStream find_current_stream() {
  constexpr const char* kName = "aoti_torch_get_current_cuda_stream";
  void* function = dlsym(RTLD_DEFAULT, kName);
  if (function == nullptr) {
    if (void* const library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD)) {
      function = dlsym(library, kName);
      dlclose(library);  // torch holds it, too
    }
  }
  return reinterpret_cast<CurrentStream>(function);
}

}  // namespace torchdet
