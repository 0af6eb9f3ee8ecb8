// Version and status texts: the part of the ABI that computes nothing.
#include "florence_kernels.h"

#ifdef FLORENCE_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

int florence_abi_version(void) { return FLORENCE_ABI_VERSION; }

const char* florence_version(void) { return FLORENCE_VERSION; }

int florence_cuda_version(void) {
#ifdef FLORENCE_WITH_CUDA
  return CUDART_VERSION;
#else
  return 0;
#endif
}

const char* florence_cuda_archs(void) { return FLORENCE_CUDA_ARCHS; }

const char* florence_status_string(int status) {
  switch (status) {
    case FLORENCE_OK:
      return "ok";
    case FLORENCE_NULL_POINTER:
      return "a pointer is NULL";
    case FLORENCE_BAD_SHAPE:
      return "unsupported shape";
    case FLORENCE_BAD_DTYPE:
      return "unsupported dtype";
    case FLORENCE_BAD_OPTION:
      return "unsupported option";
    case FLORENCE_MISALIGNED:
      return "a device pointer is not 16-byte aligned";
    case FLORENCE_UNSUPPORTED_DEVICE:
      return "the device does not support what was asked for";
    default:
      break;
  }
#ifdef FLORENCE_WITH_CUDA
  if (status > FLORENCE_CUDA_ERROR) return cudaGetErrorString(static_cast<cudaError_t>(status - FLORENCE_CUDA_ERROR));
#endif
  return "unknown status";
}
