// Faults that a sanitizer has to find: faults NAME ends with its report, and with 0 where it does
// not.
#include <cstdio>
#include <limits>
#include <string>
#include <thread>

#include "../../csrc/cpu/targets/standard_headers.h"
//
#include "../../csrc/cpu/matrix/work_space.h"
#include "../emulation/fenced.h"

using namespace torchdet;

int main(int count, char** names) {
  const std::string name = count > 1 ? names[1] : "";
  if (name == "before a tensor") {
    const Fenced tensor(64);
    std::printf("%d\n", *static_cast<volatile char*>(tensor.data() - 1));
  } else if (name == "behind a tensor") {
    const Fenced tensor(64);
    std::printf("%d\n", *static_cast<volatile char*>(tensor.data() + 64));
  } else if (name == "between pieces") {
    Arena arena(thread_scratch(1024));
    const volatile int32_t* const piece = arena.take<int32_t>(16);
    arena.take<int32_t>(16);
    std::printf("%d\n", piece[16]);
  } else if (name == "overflow") {
    volatile int32_t x = std::numeric_limits<int32_t>::max();
    x = x + static_cast<int32_t>(name.size());
  } else if (name == "race") {
    volatile int64_t sum = 0;
    const auto add = [&] { sum = sum + 1; };
    std::thread other(add);
    add();
    other.join();
  }
  return 0;
}
