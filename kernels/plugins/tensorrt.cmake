# Sets FLORENCE_HAS_TENSORRT, TensorRT_INCLUDE_DIR, TensorRT_MAJOR and TensorRT_VERSION. Only headers are looked for: the
# plugins are not linked to libnvinfer. TENSORRT_ROOT (a CMake or environment variable) is a folder that holds them or
# their include/, such as an unpacked archive or a checkout of NVIDIA/TensorRT.
set(FLORENCE_HAS_TENSORRT OFF)
if(NOT FLORENCE_HAS_CUDA)
  message(STATUS "TensorRT plugins: off, they need the CUDA kernels")
  return()
endif()

set(TENSORRT_ROOT "" CACHE PATH "Where the TensorRT headers are")
unset(TensorRT_INCLUDE_DIR CACHE) # or a change of TENSORRT_ROOT would go unnoticed
find_path(TensorRT_INCLUDE_DIR NvInferRuntime.h
  HINTS ${TENSORRT_ROOT} ENV TENSORRT_ROOT # not cached: set after a first try, it must count
  PATHS /usr/include/${CMAKE_LIBRARY_ARCHITECTURE} /usr/local/tensorrt
  PATH_SUFFIXES include)
if(NOT TensorRT_INCLUDE_DIR)
  message(STATUS "TensorRT plugins: off, NvInferRuntime.h was not found; set TENSORRT_ROOT")
  return()
endif()

# 10.11 renamed the macros that hold the numbers.
set(TensorRT_VERSION "")
foreach(part MAJOR MINOR PATCH)
  file(STRINGS ${TensorRT_INCLUDE_DIR}/NvInferVersion.h line
    REGEX "define (NV_TENSORRT_${part}|TRT_${part}_ENTERPRISE) [0-9]+")
  string(REGEX MATCH "[0-9]+" TensorRT_${part} "${line}")
  list(APPEND TensorRT_VERSION ${TensorRT_${part}})
endforeach()
list(JOIN TensorRT_VERSION "." TensorRT_VERSION)

if(TensorRT_VERSION VERSION_LESS 10.3)
  message(STATUS "TensorRT plugins: off, the headers in ${TensorRT_INCLUDE_DIR} are ${TensorRT_VERSION}, 10.3 is needed")
  return()
endif()
set(FLORENCE_HAS_TENSORRT ON)
message(STATUS "TensorRT plugins: headers ${TensorRT_VERSION} in ${TensorRT_INCLUDE_DIR}")
