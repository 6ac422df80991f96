// In place of the driver (an old one) and of torch's library for CUDA.
#include <cstdint>

#ifdef DRIVER
extern "C" int cuDriverGetVersion(int* version) {
  *version = DRIVER;
  return 0;
}
#endif

#ifdef STREAM
extern "C" int32_t aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = reinterpret_cast<void*>(STREAM);
  return 0;
}
#endif
