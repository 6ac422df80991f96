// Kernels that are wrong on purpose, one for each kind of fault that the emulation must show.
#include <cmath>
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

// Halves of a warp meet on their own; what a lane reads was written by the other half.
template <bool kWhole>
struct HalfWarps : Faulty {
  static void run(const Problem& p) {
    float* shared = shared_memory<float>();
    const int t = thread_index();
    const uint32_t half = t % 32 < 16 ? 0x0000ffffu : 0xffff0000u;
    const uint32_t lanes = kWhole ? kAllLanes : half;
    sync_warp(half);
    shared[t] = static_cast<float>(t);
    sync_warp(lanes);
    static_cast<float*>(p.out)[t] = shared[t ^ 16];
  }
};

// A shuffle lets no lane go on before all have written, in any order of threads, but it orders no
// memory.
template <bool kBarrier>
struct ShuffledNeighbour : Faulty {
  static void run(const Problem& p) {
    float* shared = shared_memory<float>();
    const int t = thread_index();
    shared[t] = static_cast<float>(t);
    const float zero = shuffle(0.f, 0);
    if (kBarrier) {
      sync_warp();
    }
    static_cast<float*>(p.out)[t] = shared[t ^ 1] + zero;
  }
};

// The same the other way round: a number is overwritten after it is read.
template <bool kBarrier>
struct VotedNeighbour : Faulty {
  static void run(const Problem& p) {
    float* shared = shared_memory<float>();
    const int t = thread_index();
    shared[t] = static_cast<float>(t);
    sync_warp();
    const float x = shared[t ^ 1];
    const bool any = any_in_warp(x > 0);
    if (kBarrier) {
      sync_warp();
    }
    shared[t] = any ? -1.f : 0.f;
    static_cast<float*>(p.out)[t] = x;
  }
};

// What a GPU's reciprocal makes of numbers that are not normal.
struct Reciprocals : Faulty {
  static void run(const Problem& p) {
    const int t = thread_index();
    const float x[] = {std::nanf(""), 0x1p-140f, -0x1p-140f, -0x1p127f, 0.f, INFINITY};
    static_cast<float*>(p.out)[t] = approximate_reciprocal(x[t % 6]);
  }
};

// All blocks write to one place.
struct SameForAllBlocks : Faulty {
  static void run(const Problem& p) {
    if (thread_index() == block_index()) {
      *static_cast<float*>(p.out) = 1;
    }
  }
};

// Collectives of lanes that meet each other any number of times.
struct LanesApart : Faulty {
  static void run(const Problem& p) {
    const int t = thread_index(), lane = t % 32;
    float x = 0;
    if (lane < 5) {  // the sum of the others, one after the other
      for (int k = 1; k < 5; ++k) {
        x += shuffle(static_cast<float>(t), (lane + k) % 5, 0x1fu);
      }
    } else if (lane < 8) {
      x = any_in_warp(lane == 6, 0xe0u) && !any_in_warp(false, 0xe0u) ? 1 : 2;
    } else if (lane < 16) {
      x = shuffle_xor(static_cast<float>(t), 7, 0xff00u);
    } else {
      x = static_cast<float>(reduce_maximum_in_warp(lane < 20 ? 100 + t : -t, 0xffff0000u));
    }
    static_cast<float*>(p.out)[t] = x;
  }
};

struct ForeignLane : Faulty {
  static void run(const Problem& p) {
    const int t = thread_index();
    if (t % 32 < 16) {
      static_cast<float*>(p.out)[t] = shuffle(static_cast<float>(t), 20, 0xffffu);
    } else {
      sync_warp(0xffff0000u);
    }
  }
};

struct UnnamedCaller : Faulty {
  static void run(const Problem& p) {
    const int t = thread_index();
    static_cast<float*>(p.out)[t] = any_in_warp(true, 0xfffeffffu);
  }
};

struct OtherLanes : Faulty {
  static void run(const Problem& p) {
    const int t = thread_index();
    sync_warp(t % 32 < 16 ? kAllLanes : 0xffff0000u);
    static_cast<float*>(p.out)[t] = 0;
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

// A warp alone exchanges numbers behind a barrier of its own, while the other warp waits for both.
struct NamedBarriers : Faulty {
  static void run(const Problem& p) {
    float* shared = shared_memory<float>();
    const int t = thread_index();
    if (t < 32) {
      for (int k = 0; k < 3; ++k) {
        shared[t] = static_cast<float>(t + k);
        sync_threads(2, 32);
        const float x = shared[t ^ 1];
        sync_threads(2, 32);
        shared[t] = x;
      }
    } else {
      shared[t] = static_cast<float>(t);
    }
    sync_threads(1, kThreads);
    static_cast<float*>(p.out)[t] = shared[(t + 32) % kThreads];
  }
};

// The warps disagree on how many threads wait, or are more than wait.
template <bool kDisagrees>
struct OtherCount : Faulty {
  static void run(const Problem& p) {
    const int t = thread_index();
    sync_threads(1, kDisagrees && t < 32 ? 32 : kDisagrees ? 64 : 32);
    static_cast<float*>(p.out)[t] = 0;
  }
};

// The second warp goes to another barrier.
struct OtherBarrier : Faulty {
  static void run(const Problem& p) {
    const int t = thread_index();
    sync_threads(t < 32 ? 1 : 2, kThreads);
    static_cast<float*>(p.out)[t] = 0;
  }
};

// Two blocks of a cluster: each reads what the other has written.
struct Cluster {
  static constexpr int kThreads = 32, kClusterSize = 2;
  static float* shared_and_out(const Problem& p) {
    shared_memory<float>()[thread_index()] =
        static_cast<float>(100 * cluster_rank() + thread_index());
    return static_cast<float*>(p.out) + block_index() * kThreads;
  }
  static float of_other() {
    return *map_shared(shared_memory<float>() + thread_index(), 1 - cluster_rank());
  }
};
template <bool kBefore, bool kBehind>
struct OtherBlock : Cluster {
  static void run(const Problem& p) {
    float* out = shared_and_out(p);
    if (kBefore) {
      sync_cluster();
    }
    out[thread_index()] = of_other();
    if (kBehind) {
      sync_cluster();
    }
  }
};
// Block 1 ends behind the barrier before which block 0 has not yet read.
struct LateReader : Cluster {
  static void run(const Problem& p) {
    float* out = shared_and_out(p);
    sync_cluster();
    arrive_cluster();
    if (cluster_rank() == 0) {
      out[thread_index()] = of_other();
    }
    wait_cluster();
  }
};
struct SkippedClusterBarrier : Cluster {
  static void run(const Problem& p) {
    float* out = shared_and_out(p);
    if (cluster_rank() == 0 || thread_index() < 8) {
      sync_cluster();
    }
    out[thread_index()] = 0;
  }
};
template <bool kArrives>
struct UnpairedClusterBarrier : Cluster {
  static void run(const Problem&) {
    if (kArrives) {
      arrive_cluster();
      arrive_cluster();
    }
    wait_cluster();
  }
};
struct ForeignBlock : Cluster {
  static void run(const Problem& p) {
    float* out = shared_and_out(p);
    out[thread_index()] = *map_shared(shared_memory<float>(), kClusterSize);
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
  const auto run = [&](auto kernel, unsigned clusters = 1) {
    return launch<decltype(kernel)>(p, clusters * cluster_size_of<decltype(kernel)>(),
                                    kThreads * sizeof(float), nullptr);
  };
  return is("barrier")                    ? run(Neighbour<true>())
         : is("no barrier")               ? run(Neighbour<false>())
         : is("warp barrier")             ? run(WarpNeighbour<true>())
         : is("no warp barrier")          ? run(WarpNeighbour<false>())
         : is("whole warp")               ? run(HalfWarps<true>())
         : is("half warps")               ? run(HalfWarps<false>())
         : is("shuffle, barrier")         ? run(ShuffledNeighbour<true>())
         : is("shuffle")                  ? run(ShuffledNeighbour<false>())
         : is("vote, barrier")            ? run(VotedNeighbour<true>())
         : is("vote")                     ? run(VotedNeighbour<false>())
         : is("one place for all blocks") ? run(SameForAllBlocks(), 2)
         : is("reciprocals")              ? run(Reciprocals())
         : is("lanes apart")              ? run(LanesApart())
         : is("foreign lane")             ? run(ForeignLane())
         : is("unnamed caller")           ? run(UnnamedCaller())
         : is("other lanes")              ? run(OtherLanes())
         : is("uninitialised")            ? run(Uninitialised())
         : is("exited lane")              ? run(ExitedLane())
         : is("diverged")                 ? run(DivergedCollectives())
         : is("skipped barrier")          ? run(SkippedBarrier())
         : is("named barriers")           ? run(NamedBarriers())
         : is("other count")              ? run(OtherCount<true>())
         : is("one too many")             ? run(OtherCount<false>())
         : is("other barrier")            ? run(OtherBarrier())
         : is("cluster")                  ? run(OtherBlock<true, true>())
         : is("no barrier before")        ? run(OtherBlock<false, true>())
         : is("no barrier behind")        ? run(OtherBlock<true, false>())
         : is("late reader")              ? run(LateReader())
         : is("skipped cluster barrier")  ? run(SkippedClusterBarrier())
         : is("second arrival")           ? run(UnpairedClusterBarrier<true>())
         : is("no arrival")               ? run(UnpairedClusterBarrier<false>())
         : is("foreign block")            ? run(ForeignBlock())
         : is("outside shared")           ? run(OutsideShared())
         : is("outside global")           ? run(OutsideGlobal())
                                          : "no such fault";
}
