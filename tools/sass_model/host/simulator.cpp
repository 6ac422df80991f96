// One SM that replays the instructions of a block's warps in all of its blocks, clock by clock, or
// as many SMs as a cluster has blocks, behind a C interface (../simulator.py calls it).
//
// Four schedulers issue an instruction per clock each, of the oldest warp that can go on: whose
// stall count has passed, whose barriers are clear, and whose pipe is free. At a barrier of the
// block a warp waits until as many have come as the instruction asks for, at that of a cluster
// until all have arrived as often. The numbers of this file are public figures of the architecture,
// or such that times on an H200 were met (tools/sass_model/__init__.py says how closely).
#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <vector>

namespace {

enum Pipe {
  kFma,      // float32; two halves, each an instruction in two clocks
  kImad,     // integer multiply-adds: one of these halves
  kAlu,      // comparisons, selections, integers and logic
  kFp64,     // float64
  kXu,       // reciprocals, conversions
  kShared,   // shuffles and shared memory; what they and global memory share in an SM
  kGlobal,   // global memory
  kSystem,   // constants with an address in a register, special registers
  kUniform,  // the uniform data path
  kOther,    // branches, barriers, moves by HFMA2: an issue slot and nothing else
  // Of accesses that are issued as those of global memory:
  kRemote,  // between the SMs of a cluster
  kCache,   // the L2 cache
  kPipes
};
constexpr const char* kPipeNames[kPipes] = {"FMA",     "IMAD",   "ALU",    "FP64",
                                            "XU",      "shared", "global", "system",
                                            "uniform", "other",  "remote", "L2"};

constexpr int kSchedulers = 4, kBarriers = 6, kNowhere = -1;
constexpr double kHalfRate = 2, kXuClocks = 8;  // between instructions of a scheduler
constexpr double kFp64Latency = 8, kXuLatency = 24, kSystemLatency = 30;
// From the end of service in the shared pipe to the result.
constexpr double kShuffleLatency = 24, kSharedLatency = 30;
constexpr double kSharedQueue =
    16;  // clocks of work that the shared pipe may have before it stalls
constexpr double kStoreLatency = 20, kOperandsRead = 12;
constexpr double kGlobalLatency = 800, kGlobalLatencyBehindQueue = 600;
constexpr double kGlobalBytesPerClock = 16.2;  // an SM's part of what a copy reaches
// Shared memory of another SM: 180 clocks, and 3.3 TB/s over all SMs (Luo et al. 2024, Benchmarking
// and Dissecting the Nvidia Hopper GPU Architecture, arXiv:2402.13499). A barrier of the cluster is
// taken for such a way there: nothing is known of its time.
constexpr double kRemoteLatency = 180, kRemoteBytesPerClock = 16, kClusterBarrierClocks = 180;
// The L2 cache, where all data of a kernel lies there: an SM's part of 5.5 TB/s.
constexpr double kCacheLatency = 280, kCacheBytesPerClock = 21;
constexpr double kBranchClocks = 8;
// From the last warp that comes to a barrier of the block to the next instructions.
constexpr double kBlockBarrierClocks = 20;
constexpr double kBlockStart = 300;  // from the end of a block to the first instruction of the next
constexpr double kFirstBlocksApart = 37;
// In waves of as many blocks as the SM has at a time: those that pass before the measurement, and
// after it. It has the more waves the shorter they are: blocks end in bursts, and a wave more or
// less must not count.
constexpr int64_t kWavesBefore = 3, kWavesAfter = 2, kLeastWaves = 8, kMostWaves = 40;
// Clusters are large, and alone on their SMs.
constexpr int64_t kClusterWavesBefore = 1, kClusterWaves = 2;
constexpr int64_t kInstructionsMeasured = 40000;  // of a warp, at least

}  // namespace

extern "C" {

// An executed instruction.
struct Step {
  int32_t pipe, stall, write_barrier, read_barrier, waits_for;
  int32_t is_branch, is_store, is_shared_load, has_no_latency;
  int32_t block_barrier, arrivals;  // of how many warps; 0: none
  int32_t cluster_barrier;          // kArrives, kWaits; 0: none
  double wavefronts;                // clocks of the shared pipe
  double global_bytes;              // of the memory's
  double remote_bytes;              // of other SMs' shared memory
  double cached_bytes;              // of the L2 cache
};

int pipe_count() {
  return kPipes;
}
const char* pipe_name(int pipe) {
  return kPipeNames[pipe];
}

enum ClusterBarrier { kArrives = 1, kWaits = 2 };  // as in ../simulator.py

// Adds what an instruction keeps each pipe of the SM busy for.
void add_clocks(const Step& step, double* clocks) {
  switch (step.pipe) {
    case kFma:
      clocks[kFma] += 1.0 / kSchedulers;
      break;
    case kImad:
      clocks[kImad] += kHalfRate / kSchedulers;
      clocks[kFma] += 1.0 / kSchedulers;  // and half of what it is a half of
      break;
    case kAlu:
    case kFp64:
      clocks[step.pipe] += kHalfRate / kSchedulers;
      break;
    case kXu:
      clocks[kXu] += kXuClocks / kSchedulers;
      break;
    case kShared:
    case kGlobal:
      clocks[kShared] += step.wavefronts;
      clocks[kGlobal] += step.global_bytes / kGlobalBytesPerClock;
      clocks[kRemote] += step.remote_bytes / kRemoteBytesPerClock;
      clocks[kCache] += step.cached_bytes / kCacheBytesPerClock;
      break;
    default:
      break;
  }
}

// What a block, of warps with these traces, keeps each pipe of the SM busy for, in clocks:
// pipe_count() numbers.
void pipe_clocks(const Step* const* traces, const int64_t* lengths, int warps, double* clocks) {
  std::fill_n(clocks, int{kPipes}, 0.0);
  for (int w = 0; w < warps; ++w) {
    for (const Step* step = traces[w]; step != traces[w] + lengths[w]; ++step) {
      add_clocks(*step, clocks);
    }
  }
}

// Clocks from block to block in the steady state, or from cluster to cluster, each block of which
// is on an SM of its own; -1 if warps wait for each other for ever. The traces are those of the
// blocks of a cluster, one after the other.
double clocks_per_block(const Step* const* traces, const int64_t* lengths, int warps_per_block,
                        int blocks_at_once, int cluster_size) {
  struct Warp {
    int64_t next = 0;  // instruction
    int64_t age = 0;   // number of its block
    double ready = 0, last_issue = 0;
    std::array<double, kBarriers> clear{};  // when
    bool runs = false, waits_for_cluster = false;
    int waits_at = kNowhere;  // barrier of the block
    int arrivals = 0;         // at the barrier of the cluster
  };
  struct Scheduler {
    std::array<double, 2> fma_free{};
    std::array<double, kPipes> free{};
  };
  struct Multiprocessor {
    std::array<Scheduler, kSchedulers> schedulers{};
    double shared_free = 0, memory_free = 0, remote_free = 0, cache_free = 0;
  };
  // Of the warps that are on an SM, and on all of them.
  const int warps = blocks_at_once * warps_per_block, all_warps = warps * cluster_size;
  const int traced = warps_per_block * cluster_size;
  const int64_t longest = *std::max_element(lengths, lengths + traced);
  const int64_t before = cluster_size > 1 ? kClusterWavesBefore : kWavesBefore;
  const int64_t waves = cluster_size > 1
                            ? kClusterWaves
                            : std::clamp(kInstructionsMeasured / longest, kLeastWaves, kMostWaves);
  const int64_t total = blocks_at_once * (before + waves + kWavesAfter);
  std::vector<Warp> warp(all_warps);
  std::vector<Multiprocessor> multiprocessors(cluster_size);
  std::vector<int> warps_left(blocks_at_once);
  std::vector<double> cluster_met(blocks_at_once);  // when the last of all arrived
  int64_t started = 0;
  std::vector<double> ends;

  // A place for a block on each SM, and with it one for a cluster.
  const auto place_of = [&](int w) { return w % warps / warps_per_block; };
  const auto trace_of = [&](int w) { return w / warps * warps_per_block + w % warps_per_block; };
  // body(warp) for those of a place.
  const auto for_place = [&](int place, auto body) {
    for (int rank = 0; rank < cluster_size; ++rank) {
      for (int w = 0; w < warps_per_block; ++w) {
        body(warp[rank * warps + place * warps_per_block + w]);
      }
    }
  };

  const auto start_block = [&](int place, double clock) {
    warps_left[place] = traced;
    for_place(place, [&](Warp& fresh) {
      fresh = Warp();
      fresh.runs = true;
      fresh.ready = clock;
      fresh.age = started;
    });
    ++started;
  };
  for (int place = 0; place < blocks_at_once; ++place) {
    start_block(place, place * kFirstBlocksApart);
  }

  // When the pipe takes an instruction.
  const auto pipe_free = [&](const Multiprocessor& sm, const Scheduler& scheduler, int pipe) {
    switch (pipe) {
      case kFma:
        return std::min(scheduler.fma_free[0], scheduler.fma_free[1]);
      case kImad:
        return scheduler.fma_free[0];
      case kShared:
      case kGlobal:
        return std::max(scheduler.free[kShared], sm.shared_free - kSharedQueue);
      default:
        return scheduler.free[pipe];
    }
  };
  // Occupies it; how long until the result is there, where the program asks.
  const auto occupy = [&](Multiprocessor& sm, Scheduler& scheduler, const Step& step,
                          double clock) {
    switch (step.pipe) {
      case kFma: {
        int half = scheduler.fma_free[0] <= scheduler.fma_free[1] ? 0 : 1;
        half = scheduler.fma_free[half] > clock ? 1 - half : half;
        scheduler.fma_free[half] = clock + kHalfRate;
        return 0.0;
      }
      case kImad:
        scheduler.fma_free[0] = clock + kHalfRate;
        return 0.0;
      case kAlu:
        scheduler.free[kAlu] = clock + kHalfRate;
        return 0.0;
      case kFp64:
        scheduler.free[kFp64] = clock + kHalfRate;
        return kFp64Latency;
      case kXu:
        scheduler.free[kXu] = clock + kXuClocks;
        return kXuLatency;
      case kShared:
      case kGlobal: {
        scheduler.free[kShared] = clock + kHalfRate;
        sm.shared_free = std::max(sm.shared_free, clock) + step.wavefronts;
        if (step.pipe == kShared) {
          return sm.shared_free - clock + (step.is_shared_load ? kSharedLatency : kShuffleLatency);
        }
        if (step.remote_bytes > 0) {
          sm.remote_free =
              std::max(sm.remote_free, clock) + step.remote_bytes / kRemoteBytesPerClock;
          return step.is_store ? kStoreLatency : sm.remote_free - clock + kRemoteLatency;
        }
        if (step.cached_bytes > 0) {
          sm.cache_free = std::max(sm.cache_free, clock) + step.cached_bytes / kCacheBytesPerClock;
          return step.is_store ? kStoreLatency : sm.cache_free - clock + kCacheLatency;
        }
        sm.memory_free = std::max(sm.memory_free, clock) + step.global_bytes / kGlobalBytesPerClock;
        return step.is_store
                   ? kStoreLatency
                   : std::max(kGlobalLatency, sm.memory_free - clock + kGlobalLatencyBehindQueue);
      }
      case kSystem:
        return kSystemLatency;
      default:
        return 0.0;
    }
  };

  // Lets the warps of a block go on from a barrier if enough of them have come.
  const auto meet = [&](int of_block, const Step& step, double clock) {
    Warp* const first = &warp[of_block / warps_per_block * warps_per_block];
    Warp* const end = first + warps_per_block;
    const auto is_here = [&](const Warp& w) { return w.waits_at == step.block_barrier; };
    if (std::count_if(first, end, is_here) == step.arrivals) {
      for (Warp* w = first; w != end; ++w) {
        if (is_here(*w)) {
          w->waits_at = kNowhere;
          w->ready = std::max(w->ready, clock + kBlockBarrierClocks);
        }
      }
    }
  };
  // A warp arrives at the barrier of its cluster, or waits there.
  const auto meet_cluster = [&](Warp& runner, int place, const Step& step, double clock) {
    if (step.cluster_barrier == kArrives) {
      ++runner.arrivals;
    } else if (step.cluster_barrier == kWaits) {
      runner.waits_for_cluster = true;
    }
    int met = runner.arrivals;
    for_place(place, [&](const Warp& w) { met = std::min(met, w.arrivals); });
    if (step.cluster_barrier == kArrives && met == runner.arrivals) {
      cluster_met[place] = clock;
    }
    for_place(place, [&](Warp& w) {
      if (w.waits_for_cluster && w.arrivals <= met) {
        w.waits_for_cluster = false;
        w.ready = std::max(w.ready, cluster_met[place] + kClusterBarrierClocks);
      }
    });
  };

  double clock = 0;
  while (static_cast<int64_t>(ends.size()) < total) {
    bool issued = false;
    double next = std::numeric_limits<double>::max();
    for (int s = 0; s < kSchedulers * cluster_size; ++s) {
      Multiprocessor& sm = multiprocessors[s / kSchedulers];
      Scheduler& scheduler = sm.schedulers[s % kSchedulers];
      const int begin = s / kSchedulers * warps, end = begin + warps;
      int chosen = -1;
      for (int w = begin + s % kSchedulers; w < end; w += kSchedulers) {
        const Warp& candidate = warp[w];
        if (!candidate.runs || candidate.waits_at != kNowhere || candidate.waits_for_cluster) {
          continue;
        }
        const Step& step = traces[trace_of(w)][candidate.next];
        double ready = std::max(candidate.ready, pipe_free(sm, scheduler, step.pipe));
        for (int b = 0; b < kBarriers; ++b) {
          if ((step.waits_for >> b & 1) != 0) {
            ready = std::max(ready, candidate.clear[b]);
          }
        }
        if (ready > clock) {
          next = std::min(next, ready);
        } else if (chosen < 0 || candidate.age < warp[chosen].age ||
                   (candidate.age == warp[chosen].age &&
                    candidate.last_issue < warp[chosen].last_issue)) {
          chosen = w;
        }
      }
      if (chosen < 0) {
        continue;
      }
      issued = true;
      Warp& runner = warp[chosen];
      const int place = place_of(chosen);
      const Step& step = traces[trace_of(chosen)][runner.next];
      runner.last_issue = clock;
      runner.ready = clock + std::max(1, step.stall);
      if (step.is_branch) {
        runner.ready = std::max(runner.ready, clock + kBranchClocks);
      }
      const double latency = occupy(sm, scheduler, step, clock);
      if (latency > 0 && !step.has_no_latency) {
        if (step.write_barrier < kBarriers) {
          runner.clear[step.write_barrier] = clock + latency;
        }
        if (step.read_barrier < kBarriers) {
          double& clear = runner.clear[step.read_barrier];
          clear = std::max(clear, clock + std::min(latency, kOperandsRead));
        }
      }
      if (step.arrivals > 0) {
        runner.waits_at = step.block_barrier;
        meet(chosen, step, clock);
      }
      if (step.cluster_barrier != 0) {
        meet_cluster(runner, place, step, clock);
      }
      if (++runner.next == lengths[trace_of(chosen)]) {
        runner.runs = false;
        if (--warps_left[place] == 0) {
          ends.push_back(clock);
          if (started < total) {
            start_block(place, clock + kBlockStart);
          }
        }
      }
    }
    if (!issued && next == std::numeric_limits<double>::max()) {
      return -1;
    }
    // Where nothing can be issued, nothing happens until the first warp is ready.
    clock = issued ? clock + 1 : std::max(clock + 1, next);
  }
  const int64_t first = blocks_at_once * before, measured = blocks_at_once * waves;
  return (ends[first + measured - 1] - ends[first - 1]) / static_cast<double>(measured);
}
}
