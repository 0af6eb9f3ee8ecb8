// Runs CUDA sources on the CPU, one thread block at a time, so that their indexing, fragment layouts and barriers are
// tested on machines without a GPU. Threads are fibers; barriers and warp collectives switch between them; a barrier
// that not all threads reach, or a collective in a warp with exited lanes, ends the process with a message. It says
// nothing about speed, about the memory model between blocks, or about what ptxas makes of the code.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#include "florence_kernels.h"

#define __global__
#define __device__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace florence::emulator {

// Runs `thread` once for every thread of every block.
void run(dim3 grid, unsigned threads, const std::function<void()>& thread);

void block_barrier();
void warp_barrier();
int lane();

// Copies `size` bytes of every lane into a table of the warp and returns it: entry i is lane i's, kSlot bytes apart.
constexpr int kSlot = 64;
const char* exchange(const void* value, int size);

template <class V>
V from_lane(const V& value, int source) {
  V result;
  std::memcpy(&result, exchange(&value, sizeof value) + source * kSlot, sizeof result);
  return result;
}

// ldmatrix .x4 of 8x8 matrices of 16-bit elements (PTX ISA, "Warp-level matrix load").
void load_matrices(uint32_t (&fragment)[4], const void* row, bool transposed);

// mma .m16n8k16 .row.col with fp32 accumulators; `widen` turns a 16-bit element into a float.
void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], float (*widen)(uint16_t));

}  // namespace florence::emulator

inline void __syncthreads() { florence::emulator::block_barrier(); }
inline void __syncwarp() { florence::emulator::warp_barrier(); }
inline void __threadfence() {}
inline void __threadfence_system() {}

template <class V>
V __shfl_xor_sync(unsigned, V value, int mask) {
  return florence::emulator::from_lane(value, florence::emulator::lane() ^ mask);
}

template <class V>
V __shfl_sync(unsigned, V value, int source) {
  return florence::emulator::from_lane(value, source);
}

inline int atomicAdd(int* address, int value) {
  const int old = *address;
  *address += value;
  return old;
}
