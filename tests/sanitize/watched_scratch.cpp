// thread_scratch of csrc/cpu/dispatch/scratch.cpp for a program that watches it. Every call has
// memory of its own, between fences, and filled with a byte of choice: what a kernel takes from an
// earlier one, or reads before it writes, shows.
#include <cstdlib>
#include <cstring>
#include <deque>

#include "../../csrc/cpu/dispatch/threads.h"
#include "../emulation/fenced.h"

// A kernel of a batch takes the scratch once, and for each matrix of it once more at the most.
constexpr size_t kMostAlive = 256;

void* torchdet::thread_scratch(size_t bytes) {
  static const int fill = [] {
    const char* text = std::getenv("TORCHDET_SCRATCH_FILL");
    return text == nullptr ? 0xFF : std::atoi(text);
  }();
  constexpr size_t kAlignment = 64;
  thread_local std::deque<Fenced> alive;
  if (alive.size() == kMostAlive) {
    alive.pop_front();
  }
  const size_t whole = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  char* const data = alive.emplace_back(whole).data();
  std::memset(data, fill, whole);
  forbid(data + bytes, whole - bytes);
  return data;
}
