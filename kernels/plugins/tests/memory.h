// Where a plugin library expects its tensors: on the host for the emulated kernels, on the GPU for the real ones.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

namespace florence::test {

enum class Place { kHost, kDevice };

inline bool gpu_found() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

class Buffer {
 public:
  Buffer(Place place, const std::vector<uint8_t>& bytes) : place_(place), size_(bytes.size()) {
    // TensorRT aligns its tensors to 256 bytes.
    if (place == Place::kHost) {
      data_ = std::aligned_alloc(256, (size_ + 256) / 256 * 256);
      std::memcpy(data_, bytes.data(), size_);
    } else {
      cudaMalloc(&data_, size_);
      cudaMemcpy(data_, bytes.data(), size_, cudaMemcpyHostToDevice);
    }
  }
  ~Buffer() { place_ == Place::kHost ? std::free(data_) : void(cudaFree(data_)); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void* data() const { return data_; }

  std::vector<uint8_t> bytes() const {
    std::vector<uint8_t> result(size_);
    if (place_ == Place::kHost) {
      std::memcpy(result.data(), data_, size_);
    } else {
      cudaMemcpy(result.data(), data_, size_, cudaMemcpyDeviceToHost);
    }
    return result;
  }

 private:
  Place place_;
  size_t size_;
  void* data_ = nullptr;
};

}  // namespace florence::test
