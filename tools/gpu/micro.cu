// What the instructions that the kernels are made of cost on this machine: clocks of an SM for each
// instruction of a warp, by its own clock. micro.py calls it.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int kSharedBytes = 32 * 1024;
constexpr int kUnrolled = 16;
// Of the clock: so long that its reading and the ends of a loop do not count.
constexpr int kRepeats = 256;

__device__ uint32_t address_of(void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// A body is kCount instructions of one kind, between which the compiler can neither choose nor move
// any. `way` says where its operands are.

// 16 bytes by each lane from so many addresses: neighbouring lanes share one, or, where way > 100,
// lanes that lie far apart.
struct LoadShared {
  static constexpr int kCount = kUnrolled;
  uint32_t address;
  __device__ LoadShared(void* shared, int way) {
    const int lane = threadIdx.x % 32, distinct = way % 100;
    const int word = way > 100 ? lane % distinct : lane / (32 / distinct);
    address = address_of(shared) + 16 * word;
  }
  __device__ void run() {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      [[maybe_unused]] float a, b, c, d;
      asm volatile("ld.volatile.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                   : "=f"(a), "=f"(b), "=f"(c), "=f"(d)
                   : "r"(address + 512 * i));
    }
  }
  __device__ float result() const { return 0; }
};

// 16 bytes by the first lanes of each warp, how many in the four bytes of `way`. Four predicates
// take turns, as where a lane stores the one of its rows that is the pivot: the compiler would make
// a branch of equal ones.
struct StoreShared {
  static constexpr int kCount = kUnrolled;
  uint32_t address;
  int stores[4];
  float x[4];
  __device__ StoreShared(void* shared, int way) {
    const int lane = threadIdx.x % 32;
    address = address_of(shared) + 16 * lane;
    for (int i = 0; i < 4; ++i) {
      stores[i] = lane < (way >> 8 * i) % 256;
      x[i] = lane + i;
    }
  }
  __device__ void run() {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      asm volatile(
          "{ .reg .pred p; setp.ne.s32 p, %0, 0;"
          " @p st.shared.v4.f32 [%1], {%2, %3, %4, %5}; }" ::"r"(stores[i % 4]),
          "r"(address + 512 * i), "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3])
          : "memory");
    }
  }
  __device__ float result() const { return 0; }
};

struct Shuffle {
  static constexpr int kCount = kUnrolled;
  int x[kCount], from;
  __device__ Shuffle(void*, int way) {
    from = (threadIdx.x + way) % 32;
    for (int i = 0; i < kCount; ++i) {
      x[i] = threadIdx.x * i;
    }
  }
  __device__ void run() {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      asm volatile("shfl.sync.idx.b32 %0, %0, %1, 31, 0xffffffff;" : "+r"(x[i]) : "r"(from));
    }
  }
  __device__ float result() const {
    int sum = 0;
    for (int i = 0; i < kCount; ++i) {
      sum += x[i];
    }
    return sum;
  }
};

// The largest of a warp: the result is the same in all lanes, so each asks for another number.
struct Reduce {
  static constexpr int kCount = kUnrolled;
  int x, largest[kCount];
  __device__ Reduce(void*, int) : x(threadIdx.x * 7 % 32) {}
  __device__ void run() {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      asm volatile("redux.sync.max.s32 %0, %1, 0xffffffff;" : "=r"(largest[i]) : "r"(x));
    }
  }
  __device__ float result() const {
    int sum = 0;
    for (int i = 0; i < kCount; ++i) {
      sum += largest[i];
    }
    return sum;
  }
};

// Multiply-adds, or minima for the pipe of integers and comparisons, in kChains chains.
template <typename T, bool kMinimum, int kInstructions>
struct Arithmetic {
  static constexpr int kCount = kInstructions, kChains = 8;
  T x[kChains], factor;
  __device__ Arithmetic(void*, int way) : factor(T(1) / (way + 2)) {
    for (int i = 0; i < kChains; ++i) {
      x[i] = static_cast<T>(threadIdx.x + i);
    }
  }
  __device__ void run() {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      T& y = x[i % kChains];
      if constexpr (kMinimum) {
        asm volatile("min.f32 %0, %0, %1;" : "+f"(y) : "f"(factor));
      } else if constexpr (sizeof(T) == 4) {
        asm volatile("fma.rn.f32 %0, %0, %1, %1;" : "+f"(y) : "f"(factor));
      } else {
        asm volatile("fma.rn.f64 %0, %0, %1, %1;" : "+d"(y) : "d"(factor));
      }
    }
  }
  __device__ float result() const {
    T sum = 0;
    for (int i = 0; i < kChains; ++i) {
      sum += x[i];
    }
    return static_cast<float>(sum);
  }
};

// Straight-line code of so many KB, run again and again: an instruction has 16 bytes.
template <int kKilobytes>
using Code = Arithmetic<float, false, kKilobytes * 64>;

template <typename Body>
__global__ void measure(long long* clocks, long long* nanoseconds, float* results, int repeats,
                        int way) {
  __shared__ __align__(16) unsigned char shared[kSharedBytes];
  Body body(shared, way);
  long long start = 0, time = 0, after = 0;
#pragma unroll 1
  for (int i = 0; i <= repeats; ++i) {
    if (i == 1) {  // the instructions are in the caches then
      __syncthreads();
      asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(time));
      start = clock64();
    }
    body.run();
  }
  __syncthreads();
  const long long end = clock64();
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(after));
  results[blockIdx.x * blockDim.x + threadIdx.x] = body.result();
  if (threadIdx.x == 0) {
    clocks[blockIdx.x] = end - start;
    nanoseconds[blockIdx.x] = after - time;
  }
}

// How many blocks are on an SM at once, at the most.
__global__ void count_residents(int* active, int* most) {
  extern __shared__ unsigned char shared[];
  if (threadIdx.x == 0) {
    uint32_t sm;
    asm volatile("mov.u32 %0, %%smid;" : "=r"(sm));
    const int now = atomicAdd(active + sm, 1) + 1;
    atomicMax(most + sm, now);
    shared[0] = static_cast<unsigned char>(now);
    const long long start = clock64();
    while (clock64() - start < 100000) {
    }
    atomicSub(active + sm, 1);
  }
}

int multiprocessors() {
  int device = 0, count = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
}

// Why there is no device, or null.
const char* obstacle() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

template <typename T>
T* device_memory(size_t count) {
  void* memory = nullptr;
  cudaMalloc(&memory, count * sizeof(T));
  cudaMemset(memory, 0, count * sizeof(T));
  return static_cast<T*>(memory);
}

template <typename T>
T median(const T* on_device, int count) {
  std::vector<T> values(count);
  cudaMemcpy(values.data(), on_device, count * sizeof(T), cudaMemcpyDeviceToHost);
  std::nth_element(values.begin(), values.begin() + count / 2, values.end());
  return values[count / 2];
}

struct Measured {
  double clocks;  // of an SM for an instruction of a warp
  double hertz;
};

template <typename Body>
Measured run(int way, int warps, int rounds) {
  const int blocks = multiprocessors(), repeats = std::max(8, kRepeats * kUnrolled / Body::kCount);
  auto* const clocks = device_memory<long long>(blocks);
  auto* const nanoseconds = device_memory<long long>(blocks);
  auto* const results = device_memory<float>(static_cast<size_t>(blocks) * warps * 32);
  Measured best = {1e9, 0};
  for (int i = 0; i < rounds; ++i) {
    measure<Body><<<blocks, warps * 32>>>(clocks, nanoseconds, results, repeats, way);
    const double all = static_cast<double>(median(clocks, blocks));
    const double each = all / (static_cast<double>(repeats) * Body::kCount * warps);
    if (each < best.clocks) {
      best = {each, all / static_cast<double>(median(nanoseconds, blocks)) * 1e9};
    }
  }
  cudaFree(clocks);
  cudaFree(nanoseconds);
  cudaFree(results);
  return best;
}

struct Named {
  const char* name;
  Measured (*run)(int way, int warps, int rounds);
};
constexpr Named kAll[] = {
    {"lds128", run<LoadShared>},
    {"sts128", run<StoreShared>},
    {"shfl", run<Shuffle>},
    {"redux", run<Reduce>},
    {"ffma", run<Arithmetic<float, false, 256>>},
    {"fmnmx", run<Arithmetic<float, true, 256>>},
    {"dfma", run<Arithmetic<double, false, 256>>},
    {"code20", run<Code<20>>},
    {"code40", run<Code<40>>},
    {"code80", run<Code<80>>},
};

}  // namespace

// Clocks of an SM for each instruction of a warp, the least of some rounds; hertz: the clock of the
// SMs meanwhile. Null, or what went wrong.
extern "C" const char* micro_run(const char* name, int way, int warps, int rounds, double* clocks,
                                 double* hertz) {
  if (const char* error = obstacle()) {
    return error;
  }
  for (const Named& one : kAll) {
    if (std::strcmp(one.name, name) == 0) {
      const Measured measured = one.run(way, warps, rounds);
      *clocks = measured.clocks;
      *hertz = measured.hertz;
      const cudaError_t status = cudaGetLastError();
      return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
    }
  }
  return "no such measurement";
}

// The most blocks of so many threads and bytes that are on an SM at once. carveout: of the SM's
// memory in percent, or -1 for the driver's choice.
extern "C" const char* micro_residents(int shared_bytes, int threads, int carveout,
                                       int* residents) {
  if (const char* error = obstacle()) {
    return error;
  }
  const int sms = multiprocessors();
  cudaFuncSetAttribute(count_residents, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  cudaFuncSetAttribute(count_residents, cudaFuncAttributePreferredSharedMemoryCarveout, carveout);
  int* const counts = device_memory<int>(2 * 1024);
  count_residents<<<sms * 64, threads, shared_bytes>>>(counts, counts + 1024);
  std::vector<int> most(1024);
  cudaMemcpy(most.data(), counts + 1024, 1024 * sizeof(int), cudaMemcpyDeviceToHost);
  *residents = *std::max_element(most.begin(), most.end());
  cudaFree(counts);
  const cudaError_t status = cudaGetLastError();
  return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}
