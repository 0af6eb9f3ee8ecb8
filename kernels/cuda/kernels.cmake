# The CUDA half of libflorence_kernels. The runtime is linked in statically, so the file is bound to no CUDA major.
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)

add_library(florence_cuda_objects OBJECT
  cuda/beam_select.cu
  cuda/beam_candidates.cu
  cuda/channel_attention.cu
  cuda/cross_attention.cu
  cuda/graph.cu
  cuda/resize_normalize.cu
  cuda/self_attention.cu
  cuda/window_attention.cu)
target_include_directories(florence_cuda_objects PRIVATE include src cuda)
target_compile_options(florence_cuda_objects PRIVATE -Xcompiler=-Wall,-Wextra)
# Pillow's weights are computed without contraction to FMA.
set_source_files_properties(cuda/resize_normalize.cu PROPERTIES COMPILE_OPTIONS --fmad=false)

target_sources(florence_kernels PRIVATE $<TARGET_OBJECTS:florence_cuda_objects>)
target_compile_definitions(florence_host_objects PRIVATE FLORENCE_WITH_CUDA)
target_link_libraries(florence_host_objects PRIVATE CUDA::cudart_static)
target_link_libraries(florence_kernels PRIVATE CUDA::cudart_static)
