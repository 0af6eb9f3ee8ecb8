// The three warp instructions of the tensor-core paths. Fragment layouts: PTX ISA, "Matrix Fragments for mma.m16n8k16".
// For lane l, g = l / 4 and q = l % 4:
//   A (16x16): a0 = A[g][2q, 2q+1], a1 = A[g+8][..], a2 = A[g][2q+8, 2q+9], a3 = A[g+8][2q+8, 2q+9]
//   B (16x8):  b0 = B[2q, 2q+1][g], b1 = B[2q+8, 2q+9][g]
//   C (16x8):  c0, c1 = C[g][2q, 2q+1], c2, c3 = C[g+8][2q, 2q+1]
#pragma once

#include "device.cuh"

namespace florence::device {

// Elements from one row of a tile of 32 to the next in shared memory: 80 bytes put the eight rows that one ldmatrix
// phase reads into different banks.
constexpr int kTileRow = 40;

#ifdef FLORENCE_EMULATED
template <class T>
uint32_t pack(float low, float high) {
  return uint32_t(from_float<T>(high).bits) << 16 | from_float<T>(low).bits;
}

inline void load_matrices(uint32_t (&fragment)[4], const void* row) { emulator::load_matrices(fragment, row, false); }

inline void load_matrices_transposed(uint32_t (&fragment)[4], const void* row) {
  emulator::load_matrices(fragment, row, true);
}

template <class T>
void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulator::multiply(c, a, {b0, b1}, [](uint16_t bits) { return to_float(T{bits}); });
}
#else
template <class T>
__device__ __forceinline__ uint32_t pack(float low, float high);
template <>
__device__ __forceinline__ uint32_t pack<Half>(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}
template <>
__device__ __forceinline__ uint32_t pack<BFloat16>(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}

// Four 8x8 matrices: lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(uint32_t (&fragment)[4], const void* row) {
  const uint32_t address = uint32_t(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(address)
               : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t (&fragment)[4], const void* row) {
  const uint32_t address = uint32_t(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(address)
               : "memory");
}

// c += A B with fp32 accumulation. Never reached below sm_80: choose_tensor_cores() sends those devices elsewhere.
template <class T>
__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define FLORENCE_MMA(type) __trap()
#else
#define FLORENCE_MMA(type)                                                            \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                 \
               ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                       \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
#endif

template <>
__device__ __forceinline__ void multiply<Half>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  FLORENCE_MMA("f16");
}
template <>
__device__ __forceinline__ void multiply<BFloat16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  FLORENCE_MMA("bf16");
}
#undef FLORENCE_MMA
#endif

// The A fragment of 16 rows and columns [column, column + 16) of a matrix in global memory, given its rows g and g + 8.
template <class T>
__device__ __forceinline__ void load_a(uint32_t (&a)[4], const T* row_g, const T* row_g8, int column, int lane) {
  const int offset = column + lane % 4 * 2;
  a[0] = *reinterpret_cast<const uint32_t*>(row_g + offset);
  a[1] = *reinterpret_cast<const uint32_t*>(row_g8 + offset);
  a[2] = *reinterpret_cast<const uint32_t*>(row_g + offset + 8);
  a[3] = *reinterpret_cast<const uint32_t*>(row_g8 + offset + 8);
}

}  // namespace florence::device
