// See races.h.
#if defined(TORCHDET_RACES)

#include "races.h"

#include <sanitizer/tsan_interface.h>

#include <map>
#include <vector>

namespace torchdet::emulation::races {
namespace {

// To switch without an order between the two.
constexpr unsigned kNoSync = __tsan_switch_to_fiber_no_sync;

// A meeting that takes place again and again has an address each time: a thread that is ahead has
// arrived at the next one while others still have to go on from this one. None is ahead by as many
// as there are addresses, since it meets them each time.
struct Times {
  uint64_t completed = 0;
  uint64_t addresses[16] = {};
  void* next() { return &addresses[completed % 16]; }
};

thread_local std::map<Meeting, Times> meetings;
thread_local std::vector<void*> fibers;
thread_local void* scheduler = nullptr;
thread_local uint64_t begun = 0, ended = 0;  // addresses, too

}  // namespace

void begin_launch(int threads) {
  scheduler = __tsan_get_current_fiber();
  while (static_cast<int>(fibers.size()) < threads) {
    fibers.push_back(__tsan_create_fiber(0));
  }
  meetings.clear();
}
void end_launch() {
  __tsan_acquire(&ended);
}
void begin_block() {
  __tsan_release(&begun);
}
void begin_thread() {
  __tsan_acquire(&begun);
}
void end_thread() {
  __tsan_release(&ended);
}

void enter(int thread) {
  __tsan_switch_to_fiber(fibers[thread], kNoSync);
}
void leave() {
  __tsan_switch_to_fiber(scheduler, kNoSync);
}

void* arrive(const Meeting& meeting) {
  void* const address = meetings[meeting].next();
  __tsan_release(address);
  return address;
}
void go_on(void* arrived) {
  __tsan_acquire(arrived);
}
void met(const Meeting& meeting) {
  ++meetings[meeting].completed;
}

}  // namespace torchdet::emulation::races

#endif
