// Kernels that are wrong on purpose, one for each kind of fault that the emulation must show.
#include <cstring>

#include "device.h"

using namespace torchdet;

namespace {

constexpr int kThreads = 64;

struct Faulty {
  static constexpr int kThreads = ::kThreads;
};

// A sum over the block: the neighbour's number is read before it is written, in some order.
template <bool kBarrier>
struct Neighbour : Faulty {
  static void run(const Problem& p) {
    float* shared = shared_memory<float>();
    const int t = thread_index();
    shared[t] = static_cast<float>(t);
    if (kBarrier) {
      sync_block();
    }
    static_cast<float*>(p.out)[t] = shared[(t + 1) % kThreads];
  }
};

// The same within warps.
template <bool kBarrier>
struct WarpNeighbour : Faulty {
  static void run(const Problem& p) {
    float* shared = shared_memory<float>();
    const int t = thread_index();
    shared[t] = static_cast<float>(t);
    if (kBarrier) {
      sync_warp();
    }
    static_cast<float*>(p.out)[t] = shared[t ^ 1];
  }
};

struct Uninitialised : Faulty {
  static void run(const Problem& p) {
    static_cast<float*>(p.out)[thread_index()] = shared_memory<float>()[thread_index()];
  }
};

// Lanes without work leave before a shuffle that the others take part in.
struct ExitedLane : Faulty {
  static void run(const Problem& p) {
    const int t = thread_index();
    if (t % 32 < 20) {
      static_cast<float*>(p.out)[t] = shuffle(static_cast<float>(t), 25);
    }
  }
};

struct DivergedCollectives : Faulty {
  static void run(const Problem& p) {
    const int t = thread_index();
    const float x = t % 2 == 0 ? shuffle_xor(1.f, 1) : float(any_in_warp(true));
    static_cast<float*>(p.out)[t] = x;
  }
};

// The second warp skips a barrier of the block.
struct SkippedBarrier : Faulty {
  static void run(const Problem& p) {
    if (thread_index() < 32) {
      sync_block();
    }
    static_cast<float*>(p.out)[thread_index()] = 0;
  }
};

struct OutsideShared : Faulty {
  static void run(const Problem&) { shared_memory<float>()[thread_index() + 1] = 1; }
};

struct OutsideGlobal : Faulty {
  static void run(const Problem& p) { static_cast<float*>(p.out)[thread_index() + 1] = 1; }
};

}  // namespace

// Runs the kernel of that name on one block; out has 64 numbers. Null, or what went wrong.
extern "C" const char* emulated_fault(const char* name, float* out) {
  Problem p;
  p.out = out;
  const auto is = [&](const char* other) { return std::strcmp(name, other) == 0; };
  const auto run = [&](auto kernel) {
    return launch<decltype(kernel)>(p, 1, kThreads * sizeof(float), nullptr);
  };
  return is("barrier")           ? run(Neighbour<true>())
         : is("no barrier")      ? run(Neighbour<false>())
         : is("warp barrier")    ? run(WarpNeighbour<true>())
         : is("no warp barrier") ? run(WarpNeighbour<false>())
         : is("uninitialised")   ? run(Uninitialised())
         : is("exited lane")     ? run(ExitedLane())
         : is("diverged")        ? run(DivergedCollectives())
         : is("skipped barrier") ? run(SkippedBarrier())
         : is("outside shared")  ? run(OutsideShared())
         : is("outside global")  ? run(OutsideGlobal())
                                 : "no such fault";
}
