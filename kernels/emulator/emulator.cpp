#include "emulator.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <vector>

namespace florence::emulator {
namespace {

constexpr int kWarp = 32;
constexpr size_t kStack = 128 * 1024;

enum class Waiting { kNothing, kWarp, kBlock };

struct Fiber {
  ucontext_t start;
  jmp_buf resume;
  std::vector<char> stack;
  Waiting waiting;
  bool started, finished;
};

struct WarpTable {
  char slots[2][kWarp][kSlot];
};

std::vector<Fiber> fibers;
std::vector<WarpTable> tables;
std::vector<int> uses;  // of its warp's table, by each thread: two tables alternate, so one barrier is enough
const std::function<void()>* body;
int current;
jmp_buf scheduler;
int schedule = 0;
std::mt19937 shuffler;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "emulator: %s, block (%u, %u, %u)\n", what, blockIdx.x, blockIdx.y, blockIdx.z);
  std::abort();
}

void fiber_main() {
  (*body)();
  fibers[current].finished = true;
  _longjmp(scheduler, 1);
}

[[gnu::noinline]] void resume(int index) {
  Fiber& fiber = fibers[index];
  current = index;
  threadIdx = dim3(index, 0, 0);
  if (_setjmp(scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.resume, 1);
  fiber.started = true;
  setcontext(&fiber.start);
}

[[gnu::noinline]] void wait(Waiting what) {
  Fiber& fiber = fibers[current];
  fiber.waiting = what;
  if (_setjmp(fiber.resume) == 0) _longjmp(scheduler, 1);
}

// Lets the threads of [first, last) go on if all of them wait for the same barrier.
bool release(int first, int last, Waiting what) {
  const auto begin = fibers.begin() + first, end = fibers.begin() + last;
  if (std::any_of(begin, end, [&](const Fiber& f) { return !f.finished && f.waiting != what; })) return false;
  if (std::all_of(begin, end, [](const Fiber& f) { return f.finished; })) return false;
  if (what == Waiting::kWarp && std::any_of(begin, end, [](const Fiber& f) { return f.finished; })) {
    fail("warp collective with exited lanes");
  }
  std::for_each(begin, end, [](Fiber& f) { f.waiting = Waiting::kNothing; });
  return true;
}

// Apart from its caller, since getcontext may return twice.
[[gnu::noinline]] void prepare(Fiber& fiber) {
  fiber.waiting = Waiting::kNothing;
  fiber.started = fiber.finished = false;
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack.data();
  fiber.start.uc_stack.ss_size = fiber.stack.size();
  fiber.start.uc_link = nullptr;
  makecontext(&fiber.start, fiber_main, 0);
}

void run_block(unsigned threads) {
  std::vector<int> order(threads);
  std::iota(order.begin(), order.end(), 0);
  if (schedule == 1) std::reverse(order.begin(), order.end());
  for (Fiber& fiber : fibers) prepare(fiber);
  std::fill(uses.begin(), uses.end(), 0);
  for (;;) {
    if (schedule > 1) std::shuffle(order.begin(), order.end(), shuffler);
    bool progress = false;
    for (int index : order) {
      if (fibers[index].finished || fibers[index].waiting != Waiting::kNothing) continue;
      resume(index);
      progress = true;
    }
    for (unsigned first = 0; first < threads; first += kWarp) {
      progress |= release(first, std::min(first + kWarp, threads), Waiting::kWarp);
    }
    progress |= release(0, threads, Waiting::kBlock);
    if (std::all_of(order.begin(), order.end(), [](int index) { return fibers[index].finished; })) return;
    if (!progress) fail("threads wait at different barriers");
  }
}

uint16_t element(const char* row, int column) {
  uint16_t bits;
  std::memcpy(&bits, row + 2 * column, sizeof bits);
  return bits;
}

}  // namespace

void run(dim3 grid, unsigned threads, const std::function<void()>& thread) {
  if (threads % kWarp != 0 || threads == 0 || threads > 1024) fail("a block must be 1 to 32 whole warps");
  fibers.resize(threads);
  for (Fiber& fiber : fibers) fiber.stack.resize(kStack);
  tables.resize(threads / kWarp);
  uses.resize(threads);
  body = &thread;
  shuffler.seed(schedule);
  gridDim = grid;
  blockDim = dim3(threads);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        run_block(threads);
      }
    }
  }
}

void block_barrier() { wait(Waiting::kBlock); }
void warp_barrier() { wait(Waiting::kWarp); }
int lane() { return current % kWarp; }

const char* exchange(const void* value, int size) {
  auto& slots = tables[current / kWarp].slots[uses[current]++ % 2];
  std::memcpy(slots[lane()], value, size);
  warp_barrier();
  return slots[0];
}

void load_matrices(uint32_t (&fragment)[4], const void* row, bool transposed) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) fail("ldmatrix row is not 16-byte aligned");
  char rows[4][8][16];
  const char* table = exchange(static_cast<const char*>(row), 16);
  for (int i = 0; i < kWarp; ++i) std::memcpy(rows[i / 8][i % 8], table + i * kSlot, 16);
  const int major = lane() / 4, minor = lane() % 4 * 2;
  for (int m = 0; m < 4; ++m) {
    const uint16_t low = transposed ? element(rows[m][minor], major) : element(rows[m][major], minor);
    const uint16_t high = transposed ? element(rows[m][minor + 1], major) : element(rows[m][major], minor + 1);
    fragment[m] = uint32_t(high) << 16 | low;
  }
}

void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], float (*widen)(uint16_t)) {
  uint32_t own[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const char* table = exchange(own, sizeof own);
  auto part = [&](int source, int reg, int half) { return widen(element(table + source * kSlot + 4 * reg, half)); };
  for (int i = 0; i < 4; ++i) {
    const int row = lane() / 4 + (i / 2) * 8, column = lane() % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k) {
      const int quad = k % 8 / 2, high = k / 8;
      c[i] += part(row % 8 * 4 + quad, row / 8 + 2 * high, k % 2) * part(column * 4 + quad, 4 + high, k % 2);
    }
  }
}

}  // namespace florence::emulator

// 0: threads in ascending order, 1: descending, others: a new random order in every round.
extern "C" FLORENCE_API void florence_emulator_schedule(int schedule) { florence::emulator::schedule = schedule; }
