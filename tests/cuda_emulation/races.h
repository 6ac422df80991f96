// Races: what ThreadSanitizer is told of the emulated threads.
//
// Compiled with -fsanitize=thread, every CUDA thread is a thread to ThreadSanitizer, although all
// of them run in turn on one thread of the host. Nothing orders two of them but what orders memory
// in CUDA: sync_block and sync_warp. Shuffles, votes and reductions do not, nor does the turn in
// which the fibers run. So a race is reported in every order of threads, also one that a shuffle
// happens to hide; blocks of a launch are not ordered either. Only kernels are instrumented, not
// the emulation. Without ThreadSanitizer the functions here do nothing.
#pragma once

#include "device.h"

namespace torchdet::emulation::races {

#if defined(TORCHDET_RACES)
constexpr bool kAreWatched = true;
#else
constexpr bool kAreWatched = false;
#endif

// Those who meet: the threads from `begin` on that `lanes` names, or the whole block. A barrier of
// other threads needs a key of its own here, and a call of met() where they go on.
struct Meeting {
  Collective collective;
  int begin;
  uint32_t lanes;
  auto operator<=>(const Meeting&) const = default;
};
constexpr bool orders_memory(Collective collective) {
  return collective == Collective::kSyncBlock || collective == Collective::kSyncWarp;
}

#if defined(TORCHDET_RACES)
// Around a launch, a block of it, and the body of a thread.
void begin_launch(int threads);
void end_launch();
void begin_block();
void begin_thread();
void end_thread();
// The next instruction switches to that thread's stack, or to the scheduler's.
void enter(int thread);
void leave();
// A thread arrives, and goes on after it has met the others; `met` lies between for all of them.
void* arrive(const Meeting& meeting);
void go_on(void* arrived);
void met(const Meeting& meeting);
#else
inline void begin_launch(int) {}
inline void end_launch() {}
inline void begin_block() {}
inline void begin_thread() {}
inline void end_thread() {}
inline void enter(int) {}
inline void leave() {}
inline void* arrive(const Meeting&) {
  return nullptr;
}
inline void go_on(void*) {}
inline void met(const Meeting&) {}
#endif

}  // namespace torchdet::emulation::races
