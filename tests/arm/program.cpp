// The CPU kernels in a program that answers requests, so that those of another processor run under
// an emulation of it. on_arm.py asks, in words of 64 bits, little end first.
//
// A request: op, dtype, n, batch, threads; the tensors A and other, each of them its dimensions,
// their sizes and strides, and where in its bytes it begins; kept and integers, as backward takes
// them; bytes of the results out, determinant, logabsdet and integers. The answer: these results.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "../../csrc/cpu/batch.h"
#include "../emulation/view_of.h"

namespace {

using namespace torchdet;

int64_t threads_at_hand = 1;
thread_local bool is_one_of_many = false;

// Bytes between two pages that nobody may touch, the second one right behind them.
class Fenced {
 public:
  explicit Fenced(size_t bytes) : bytes_(bytes) {
    const size_t page = sysconf(_SC_PAGESIZE);
    const size_t inside = bytes / page * page + page;
    mapped_ = inside + 2 * page;
    begin_ =
        static_cast<char*>(mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (begin_ == MAP_FAILED || mprotect(begin_ + page, inside, PROT_READ | PROT_WRITE) != 0) {
      std::perror("memory");
      std::exit(1);
    }
    data_ = begin_ + page + inside - bytes;
  }
  Fenced(const Fenced&) = delete;
  ~Fenced() { munmap(begin_, mapped_); }

  size_t bytes() const { return bytes_; }
  char* data() const { return bytes_ > 0 ? data_ : nullptr; }

 private:
  size_t bytes_, mapped_;
  char *begin_, *data_;
};

// Ends the program where the other side has gone.
void read(void* to, size_t bytes) {
  if (bytes > 0 && std::fread(to, bytes, 1, stdin) != 1) {
    std::exit(0);
  }
}
int64_t read_word() {
  int64_t word;
  read(&word, sizeof(word));
  return word;
}

struct Bytes : Fenced {
  Bytes() : Fenced(read_word()) { read(data(), bytes()); }
};

// What no kernel has written shows: NaN, and an index that leads out of every matrix.
struct Room : Fenced {
  Room() : Fenced(read_word()) {
    if (bytes() > 0) {
      std::memset(data(), 0xFF, bytes());
    }
  }
};

struct Tensor {
  std::vector<int64_t> sizes, strides;
  int64_t begin;
  Bytes bytes;

  Tensor()
      : sizes(read_words(read_word())), strides(read_words(sizes.size())), begin(read_word()) {}
  BatchView view(int matrix_dims) const {
    return view_of(bytes.data() + begin, sizes.size(), sizes.data(), strides.data(), matrix_dims);
  }

 private:
  static std::vector<int64_t> read_words(size_t count) {
    std::vector<int64_t> words(count);
    read(words.data(), count * sizeof(int64_t));
    return words;
  }
};

void answer_request() {
  Problem p;
  p.op = static_cast<Op>(read_word());
  const Dtype dtype = static_cast<Dtype>(read_word());
  p.n = read_word();
  p.batch = read_word();
  threads_at_hand = read_word();
  const Tensor A, other;
  const Bytes kept, kept_integers;
  const Room out, determinant, logabsdet, integers;
  p.A = A.view(2);
  if (other.bytes.bytes() > 0) {
    p.other = other.view(p.op == Op::kDetHvp ? 2 : 0);
  }
  p.out = out.data();
  p.determinant = determinant.data();
  p.logabsdet = logabsdet.data();
  p.integers = reinterpret_cast<int32_t*>(integers.data());
  p.kept = kept.data();
  p.kept_integers = reinterpret_cast<const int32_t*>(kept_integers.data());
  run_batch(p, dtype, threads_at_hand);
  for (const Room* result : {&out, &determinant, &logabsdet, &integers}) {
    std::fwrite(result->data(), 1, result->bytes(), stdout);
  }
  std::fflush(stdout);
}

}  // namespace

// The grain is a matter of speed and does not count here: so small matrices are shared as well.
void torchdet::parallel_parts(int64_t count, int64_t, void* context,
                              void (*body)(void* context, int64_t begin, int64_t end)) {
  const int64_t parts = is_one_of_many ? 1 : std::min(threads_at_hand, count);
  if (parts <= 1) {
    body(context, 0, count);
    return;
  }
  std::vector<std::thread> threads;
  for (int64_t part = 0; part < parts; ++part) {
    threads.emplace_back([=] {
      is_one_of_many = true;
      body(context, count * part / parts, count * (part + 1) / parts);
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
}

int main() {
  while (true) {
    answer_request();
  }
}
