# Sets FLORENCE_HAS_CUDA, FLORENCE_CUDA_ARCHITECTURES (what was asked for, to be shown) and, where the user gave none,
# CMAKE_CUDA_ARCHITECTURES from the toolkit's version.
# A cubin runs on its own architecture and on later minor ones of the same desktop major (8.6 serves 8.9, 10.0 serves
# 10.3, 12.0 serves 12.1); the last entry carries PTX for devices to come. 8.7 is Orin; Thor is 10.1 for CUDA 12.8 and
# 12.9, 11.0 from CUDA 13.
set(FLORENCE_HAS_CUDA OFF)
if(FLORENCE_CUDA STREQUAL "OFF")
  message(STATUS "CUDA kernels: off, FLORENCE_CUDA is OFF")
  return()
endif()

find_package(CUDAToolkit QUIET)
if(NOT CUDAToolkit_FOUND OR NOT CUDAToolkit_NVCC_EXECUTABLE)
  if(FLORENCE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "FLORENCE_CUDA is ON but nvcc was not found; install the CUDA toolkit or set CUDACXX")
  endif()
  message(STATUS "CUDA kernels: off, nvcc was not found")
  return()
endif()

if(CUDAToolkit_VERSION VERSION_LESS 12.0)
  message(FATAL_ERROR "CUDA ${CUDAToolkit_VERSION} is too old, 12.0 or later is needed; or set FLORENCE_CUDA=OFF")
elseif(CUDAToolkit_VERSION VERSION_LESS 12.8)
  set(florence_archs 75-real 80-real 86-real 87-real 89-real 90)
elseif(CUDAToolkit_VERSION VERSION_LESS 13.0)
  set(florence_archs 75-real 80-real 86-real 87-real 89-real 90-real 100-real 101-real 120)
else()
  set(florence_archs 75-real 80-real 86-real 87-real 89-real 90-real 100-real 110-real 120)
endif()
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND NOT DEFINED ENV{CUDAARCHS})
  set(CMAKE_CUDA_ARCHITECTURES ${florence_archs} CACHE STRING "")
endif()
if(NOT DEFINED CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  set(CMAKE_CUDA_COMPILER ${CUDAToolkit_NVCC_EXECUTABLE})
endif()
set(FLORENCE_CUDA_ARCHITECTURES ${CMAKE_CUDA_ARCHITECTURES})
if(CMAKE_CUDA_ARCHITECTURES STREQUAL "native" AND CMAKE_VERSION VERSION_LESS 3.24)
  # CMake knows the word from 3.24 on; before, nvcc is asked what it would compile for. Without a GPU it takes an
  # architecture that no kernel is made for, and says so in a warning alone.
  execute_process(COMMAND ${CUDAToolkit_NVCC_EXECUTABLE} -arch=native -dryrun -cubin -x cu /dev/null -o /dev/null
    OUTPUT_VARIABLE said ERROR_VARIABLE said)
  string(REGEX MATCHALL "sm_[0-9]+" found "${said}")
  string(REGEX REPLACE "sm_([0-9]+)" "\\1-real" found "${found}")
  if(NOT found OR said MATCHES "Cannot find valid GPU")
    message(FATAL_ERROR "no GPU was found to compile for; in a container start it with GPU access, or name the "
      "architecture: -DCMAKE_CUDA_ARCHITECTURES=87-real (Orin), 110-real (Thor), 89-real (RTX 40)")
  endif()
  list(REMOVE_DUPLICATES found)
  set(CMAKE_CUDA_ARCHITECTURES ${found})
  set(FLORENCE_CUDA_ARCHITECTURES ${found})
endif()
enable_language(CUDA)
set(FLORENCE_HAS_CUDA ON)
message(STATUS "CUDA kernels: CUDA ${CUDAToolkit_VERSION} for ${FLORENCE_CUDA_ARCHITECTURES}")
