// A runtime with devices that have no GPU, and a C interface to csrc/cuda/runtime.cu on it.
#include <cstring>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "cuda_runtime.h"
#include "driver.h"
#include "kernels.h"
#include "runtime.h"
#include "stream.h"

namespace {

constexpr int kOptin = 232448, kMultiprocessors = 132, kDevices = 2;

std::mutex mutex;
// Of each device and kernel.
std::map<std::pair<int, const void*>, int> allowed_bytes, carveouts;
int settings = 0;

thread_local int device = 0;
thread_local cudaError_t last_error = cudaSuccess;
thread_local std::string failing;  // the function that fails when it is called next

cudaError_t result(cudaError_t status, const char* function) {
  if (failing == function) {
    failing.clear();
    status = cudaErrorUnknown;
  }
  // As in CUDA: a success leaves the error of an earlier call where it is.
  last_error = status == cudaSuccess ? last_error : status;
  return status;
}

}  // namespace

cudaError_t cudaGetDevice(int* current) {
  *current = device;
  return result(cudaSuccess, "cudaGetDevice");
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int of) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? kMultiprocessors
           : attribute == cudaDevAttrClusterLaunch     ? 1
                                                       : kOptin;
  return result(of < kDevices ? cudaSuccess : cudaErrorInvalidValue, "cudaDeviceGetAttribute");
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  const std::lock_guard lock(mutex);
  ++settings;
  auto& values =
      attribute == cudaFuncAttributeMaxDynamicSharedMemorySize ? allowed_bytes : carveouts;
  values[{device, kernel}] = value;
  return result(value <= kOptin ? cudaSuccess : cudaErrorInvalidValue, "cudaFuncSetAttribute");
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void**) {
  std::this_thread::yield();  // another thread may set something before this one launches
  const std::lock_guard lock(mutex);
  const auto found = allowed_bytes.find({device, kernel});
  const size_t allowed = found == allowed_bytes.end() ? torchdet::kSharedBytesEverywhere
                                                      : static_cast<size_t>(found->second);
  return result(config->dynamicSmemBytes <= allowed ? cudaSuccess : cudaErrorInvalidValue,
                "cudaLaunchKernelExC");
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, void (*)()) {
  attributes->ptxVersion = 90;
  return result(cudaSuccess, "cudaFuncGetAttributes");
}

cudaError_t cudaGetLastError() {
  return std::exchange(last_error, cudaSuccess);
}

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorInvalidValue ? "invalid argument" : "unknown error";
}

extern "C" {

// Launches kernel 0 or 1 from the thread that calls it; null, or what went wrong.
const char* fake_launch(int kernel, int on_device, size_t shared_bytes, int carveout) {
  static torchdet::PreparedDevices prepared[2];
  device = on_device;
  return torchdet::launch_kernel(
      {&prepared[kernel], prepared[kernel], carveout, 128, 1, 1, shared_bytes}, {}, nullptr);
}
// Launches that many times; how many failed.
int fake_launches(int kernel, size_t shared_bytes, int number) {
  int failed = 0;
  for (int i = 0; i < number; ++i) {
    failed += fake_launch(kernel, 0, shared_bytes, torchdet::kNoCarveout) != nullptr ? 1 : 0;
  }
  return failed;
}
const char* fake_limits(int of) {
  return torchdet::cuda_limits(of).error;
}
// The function of the runtime that fails when this thread calls it next.
void fake_failure(const char* function) {
  failing = function;
}
int fake_last_error() {
  return last_error;
}
int fake_settings() {
  return settings;
}
int fake_carveout() {
  return carveouts.empty() ? torchdet::kNoCarveout : carveouts.begin()->second;
}

const char* fake_driver_problem(int driver, int runtime) {
  static std::string problem;
  problem = torchdet::driver_problem(driver, runtime);
  return problem.c_str();
}
// Of the driver that is installed.
const char* installed_driver_problem() {
  static std::string problem;
  problem = torchdet::cuda_driver_problem();
  return problem.c_str();
}
// The stream that torch's library gives, or -1 where there is no such library, as a number.
intptr_t stream_of_torch() {
  const torchdet::CurrentStream current = torchdet::find_current_stream();
  void* stream = nullptr;
  return current == nullptr         ? -1
         : current(0, &stream) == 0 ? reinterpret_cast<intptr_t>(stream)
                                    : 0;
}
}
