// What every kernel file uses: element types, 16-byte loads, warp reductions, the launch, the choice of path.
#pragma once

#ifdef FLORENCE_EMULATED
#include "emulator.h"
#include "numbers.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

#include "checks.h"

namespace florence::device {

constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr int kWarp = 32;
constexpr float kLog2e = 1.4426950408889634f;

#ifdef FLORENCE_EMULATED
using Half = cpu::Half;
using BFloat16 = cpu::BFloat16;
using cpu::from_float;
using cpu::to_float;
#else
using Half = __half;
using BFloat16 = __nv_bfloat16;

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(Half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(BFloat16 value) { return __bfloat162float(value); }

template <class T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ Half from_float<Half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __forceinline__ BFloat16 from_float<BFloat16>(float value) {
  return __float2bfloat16_rn(value);
}
#endif

// How many elements 16 bytes hold.
template <class T>
constexpr int kVector = 16 / sizeof(T);

// Reads kVector<T> elements from a 16-byte aligned address.
template <class T>
__device__ __forceinline__ void load_vector(const T* from, float (&values)[kVector<T>]) {
  alignas(16) T elements[kVector<T>];
  *reinterpret_cast<uint4*>(elements) = *reinterpret_cast<const uint4*>(from);
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) values[i] = to_float(elements[i]);
}

// Reductions over lanes that differ in the bits below `width`, a power of two; every lane gets the result.
__device__ __forceinline__ float max_over(float value, int width) {
  for (int mask = width / 2; mask > 0; mask /= 2) value = fmaxf(value, __shfl_xor_sync(kWholeWarp, value, mask));
  return value;
}

__device__ __forceinline__ float sum_over(float value, int width) {
  for (int mask = width / 2; mask > 0; mask /= 2) value += __shfl_xor_sync(kWholeWarp, value, mask);
  return value;
}

// Calls f with a value of the element type that `dtype` names; f returns a status.
template <class F>
int with_dtype(int dtype, F f) {
  if (dtype == FLORENCE_F16) return f(Half{});
  if (dtype == FLORENCE_BF16) return f(BFloat16{});
  return f(float{});
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

#ifdef FLORENCE_EMULATED
template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, int threads, void*, Arguments... arguments) {
  emulator::run(grid, threads, [=] { kernel(arguments...); });
  return FLORENCE_OK;
}

inline int compute_capability(int* major) {
  *major = 8;
  return FLORENCE_OK;
}
#else
// A failed call leaves its error behind for whoever asks next; the status has already told it.
inline int status_of(cudaError_t error) {
  if (error == cudaSuccess) return FLORENCE_OK;
  cudaGetLastError();
  return refuse(FLORENCE_CUDA_ERROR + int(error), "%s", cudaGetErrorString(error));
}

template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, int threads, void* stream, Arguments... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.stream = static_cast<cudaStream_t>(stream);
  return status_of(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}

inline int compute_capability(int* major) {
  int device = 0;
  FLORENCE_TRY(status_of(cudaGetDevice(&device)));
  return status_of(cudaDeviceGetAttribute(major, cudaDevAttrComputeCapabilityMajor, device));
}
#endif

// Resolves a florence_path; `suited` says whether dtype and shape allow tensor cores.
inline int choose_tensor_cores(const char* op, int path, bool suited, bool* chosen) {
  *chosen = false;
  if (path == FLORENCE_PATH_PORTABLE || !suited) return FLORENCE_OK;
  int major = 0;
  FLORENCE_TRY(compute_capability(&major));
  *chosen = major >= 8;
  if (*chosen || path == FLORENCE_PATH_AUTO) return FLORENCE_OK;
  return refuse(FLORENCE_UNSUPPORTED_DEVICE, "%s: tensor cores were asked for, this device is sm_%dx, needed is sm_80",
                op, major);
}

}  // namespace florence::device
