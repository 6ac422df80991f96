// The CPU kernels in a program that answers requests, so that those of another processor run under
// an emulation of it, and any of them under a sanitizer. kernel_program.py asks, in words of 64
// bits, little end first.
//
// A request: op, dtype, n, batch, threads, callers; the tensors A and other, each of them its
// dimensions, their sizes and strides, and where in its bytes it begins; kept and integers, as
// backward takes them; bytes of the results out, determinant, logabsdet, integers and inverse. The
// answer: these results. Or -1, dtype, n, to be answered by the least order of which something is
// kept, how many integers are kept of a matrix, and the least order that has an inverse beside a
// gradient.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "../../csrc/cpu/dispatch/batch.h"
#include "fenced.h"
#include "view_of.h"

namespace {

using namespace torchdet;

int64_t threads_at_hand = 1;
thread_local bool is_one_of_many = false;

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
void write(const void* from, size_t bytes) {
  std::fwrite(from, 1, bytes, stdout);
}

struct Bytes : Fenced {
  Bytes() : Fenced(read_word()) { read(data(), bytes()); }
};

// What no kernel has written shows: NaN, and an index that leads out of every matrix.
struct Room : Fenced {
  explicit Room(size_t bytes) : Fenced(bytes) {
    if (bytes > 0) {
      std::memset(data(), 0xFF, bytes);
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
  // Takes the dimension of the directions out; returns their number and how far apart they lie.
  std::pair<int64_t, int64_t> take_directions() {
    const size_t place = sizes.size() - 3;
    const std::pair<int64_t, int64_t> directions(sizes[place], strides[place]);
    sizes.erase(sizes.begin() + place);
    strides.erase(strides.begin() + place);
    return directions;
  }

 private:
  static std::vector<int64_t> read_words(size_t count) {
    std::vector<int64_t> words(count);
    read(words.data(), count * sizeof(int64_t));
    return words;
  }
};

// The results of one who calls, in the order in which they are answered.
struct Results {
  static constexpr int kResults = 5;
  std::deque<Room> rooms;

  explicit Results(const int64_t (&bytes)[kResults]) {
    for (const int64_t size : bytes) {
      rooms.emplace_back(size);
    }
  }
  void compute(Problem p, Dtype dtype) const {
    p.out = rooms[0].data();
    p.determinant = rooms[1].data();
    p.logabsdet = rooms[2].data();
    p.integers = reinterpret_cast<int32_t*>(rooms[3].data());
    p.inverse = rooms[4].data();
    run_batch(p, dtype, threads_at_hand);
  }
};

void answer_request() {
  Problem p;
  const int64_t op = read_word();
  const Dtype dtype = static_cast<Dtype>(read_word());
  p.n = read_word();
  if (op < 0) {
    const int64_t facts[] = {least_kept(is_complex_number(dtype)), count_of_kept_integers(p.n),
                             kLeastBothResults};
    write(facts, sizeof(facts));
    return;
  }
  p.op = static_cast<Op>(op);
  p.batch = read_word();
  threads_at_hand = read_word();
  const int64_t callers = read_word();
  const Tensor A;
  Tensor other;
  const Bytes kept, kept_integers;
  int64_t bytes[Results::kResults];
  read(bytes, sizeof(bytes));
  p.A = A.view(2);
  if (other.bytes.bytes() > 0) {
    if (p.op == Op::kDetJet) {
      std::tie(p.directions, p.direction_stride) = other.take_directions();
    }
    p.other = other.view(multiplies_grad(p.op) ? 0 : 2);
  }
  if (p.op == Op::kDetBackwardJvp || p.op == Op::kSlogdetHvp) {
    p.of_hvp = kept.data();
    p.of_cofactor = kept_integers.data();
  } else {
    p.kept = kept.data();
    p.kept_integers = reinterpret_cast<const int32_t*>(kept_integers.data());
  }
  const Results results(bytes);
  std::vector<std::thread> others;
  for (int64_t caller = 1; caller < callers; ++caller) {
    others.emplace_back([&] { Results(bytes).compute(p, dtype); });
  }
  results.compute(p, dtype);
  for (std::thread& caller : others) {
    caller.join();
  }
  for (const Room& room : results.rooms) {
    write(room.data(), room.bytes());
  }
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
    std::fflush(stdout);
  }
}
