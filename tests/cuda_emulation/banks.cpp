// See banks.h.
#include "banks.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <utility>
#include <vector>

namespace torchdet::emulation::banks {
namespace {

constexpr int kLanes = 32, kBanks = 32;
constexpr int64_t kNone = -1;

// What the lanes access in one instruction.
struct Access {
  size_t bytes = 0;
  std::array<int64_t, kLanes> offsets;
  Access() { offsets.fill(kNone); }

  // Whether those of [begin, end) that take part share their addresses with lane t ^ mask.
  bool shares(int begin, int end, int mask) const {
    for (int t = begin; t < end; ++t) {
      const int64_t own = offsets[t], other = offsets[t ^ mask];
      if (own != kNone && other != kNone && own != other) {
        return false;
      }
    }
    return true;
  }
  bool shares(int begin, int end) const { return shares(begin, end, 1) || shares(begin, end, 2); }

  // Of lanes that are served together; 0 if none takes part.
  int64_t wavefronts(int begin, int end) const {
    std::set<int64_t> words[kBanks];
    for (int t = begin; t < end; ++t) {
      for (size_t byte = 0; offsets[t] != kNone && byte < bytes; byte += 4) {
        const int64_t word = (offsets[t] + static_cast<int64_t>(byte)) / 4;
        words[word % kBanks].insert(word);
      }
    }
    size_t most = 0;
    for (const auto& of_bank : words) {
      most = std::max(most, of_bank.size());
    }
    return static_cast<int64_t>(most);
  }

  void add_to(Counts& counts) const {
    const int half = kLanes / 2;
    int lanes = bytes <= 4 ? kLanes : bytes == 8 ? half : half / 2;
    ++counts.accesses;
    for (int begin = 0; begin < kLanes;) {
      int end = begin + lanes;
      if (bytes > 4 && begin % (2 * lanes) == 0 && shares(begin, begin + 2 * lanes)) {
        end = begin + 2 * lanes;
      }
      const int64_t taken = wavefronts(begin, end);
      counts.wavefronts += taken;
      counts.least += taken > 0 ? 1 : 0;
      counts.worst = std::max(counts.worst, taken);
      begin = end;
    }
  }
};

struct Counting {
  bool is_on = false;
  Counts counts;
  // Of the running block: how often a lane was at an instruction, and what the n-th time accessed.
  std::map<std::pair<Instruction, int>, size_t> times;
  std::map<Instruction, std::vector<Access>> accesses;
};
thread_local Counting counting;

}  // namespace

Counts count(bool is_counting) {
  counting.is_on = is_counting;
  return std::exchange(counting.counts, {});
}

void note(const Instruction& instruction, int lane, size_t offset, size_t bytes) {
  if (!counting.is_on) {
    return;
  }
  const size_t time = counting.times[{instruction, lane}]++;
  std::vector<Access>& accesses = counting.accesses[instruction];
  if (accesses.size() <= time) {
    accesses.resize(time + 1);
  }
  accesses[time].bytes = bytes;
  accesses[time].offsets[lane] = static_cast<int64_t>(offset);
}

void end_block() {
  for (const auto& [instruction, accesses] : counting.accesses) {
    for (const Access& access : accesses) {
      access.add_to(counting.counts);
    }
  }
  counting.accesses.clear();
  counting.times.clear();
}

}  // namespace torchdet::emulation::banks
