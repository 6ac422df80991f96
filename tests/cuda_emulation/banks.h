// Bank conflicts: how many wavefronts the accesses of shared memory take.
//
// Shared memory has 32 banks of 4 bytes and serves a word of each in one wavefront. What the lanes
// of a warp access in one instruction is served
//   of 1 to 4 bytes: together;
//   of 8 bytes: by halves of the warp, 0..15 and 16..31, or both together where lanes share;
//   of 16 bytes: by quarters of the warp, or the two of a half together where lanes share,
// "share" being that every lane t and t^1 have one address, or every lane t and t^2, lanes that do
// not take part left out. Each part takes as many wavefronts as the busiest bank has different
// words. NVIDIA documents the parts, the rule for sharing is from measurements that developers have
// published (forums.developer.nvidia.com/t/unexpected-shared-memory-bank-conflict/77228).
//
// The lanes of the emulation run one after the other. What they access at the same instruction of
// the host's code, after the same number of collectives, and for the same time since then, counts
// as one instruction of the warp. A loop that the GPU's compiler unrolls may be a loop here: lanes
// that skip different turns of it then appear together, whereas the GPU serves them one after the
// other.
//
// Counting is for builds without ThreadSanitizer, which would take its own notes for accesses.
#pragma once

#include <cstddef>
#include <cstdint>

namespace torchdet::emulation::banks {

struct Counts {
  int64_t accesses = 0;    // instructions of a warp
  int64_t wavefronts = 0;  // that they take
  int64_t least = 0;       // that they would take without conflicts: their parts
  int64_t worst = 0;       // the most wavefronts of a part
};

struct Instruction {
  int warp;
  unsigned collectives;  // that the lane has passed
  const void* address;   // in the code
  auto operator<=>(const Instruction&) const = default;
};

// Counts from now on, of this thread of the host; or no longer. What was counted until now.
Counts count(bool is_counting);

// A lane of the running block accesses shared memory at an offset.
void note(const Instruction& instruction, int lane, size_t offset, size_t bytes);
void end_block();

}  // namespace torchdet::emulation::banks
