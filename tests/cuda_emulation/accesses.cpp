// What bank conflicts are counted (banks.h), and one access of a warp whose conflicts are known.
#include "banks.h"
#include "device.h"

using namespace torchdet;

namespace {

// Lane t accesses W at the offset that it finds at place t, or nothing where that is negative.
template <typename W>
struct OneAccess {
  static constexpr int kThreads = 32;
  static void run(const Problem& p) {
    const int offset = static_cast<const int*>(p.A.data)[thread_index()];
    unsigned char* const shared = shared_memory<unsigned char>();
    if (offset >= 0) {
      const W word = load_shared<W>(shared + offset);
      sync_warp();
      store_shared(shared + offset, word);
    } else {
      sync_warp();
    }
  }
};

struct alignas(16) FourWords {
  uint32_t x[4];
};

}  // namespace

extern "C" {

// Counts from now on or no longer; what was counted until now as four numbers.
void emulated_count(int is_counting, int64_t* numbers) {
  const emulation::banks::Counts counts = emulation::banks::count(is_counting != 0);
  numbers[0] = counts.accesses;
  numbers[1] = counts.wavefronts;
  numbers[2] = counts.least;
  numbers[3] = counts.worst;
}

// A warp reads and writes 4, 8 or 16 bytes a lane at 32 offsets; null, or what went wrong.
const char* emulated_access(int bytes, const int* offsets, int shared_bytes) {
  Problem p;
  p.A.data = offsets;
  const size_t size = static_cast<size_t>(shared_bytes);
  return bytes == 4   ? launch<OneAccess<uint32_t>>(p, 1, size, nullptr)
         : bytes == 8 ? launch<OneAccess<uint64_t>>(p, 1, size, nullptr)
                      : launch<OneAccess<FourWords>>(p, 1, size, nullptr);
}
}
