// Runs every device launcher and its twin on the same random tensors and compares them. Needs no Python, so it is what
// to run under compute-sanitizer. Built against the CUDA library (exit code 77 without a GPU) and against the emulator.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "florence_kernels.h"
#include "numbers.h"

#ifdef FLORENCE_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace {

using namespace florence::cpu;

// ---- a tensor on the host with a copy on the device ----

#ifdef FLORENCE_WITH_CUDA
bool device_found() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}
void* device_copy(const void* host, size_t size) {
  void* device = nullptr;
  cudaMalloc(&device, size);
  cudaMemcpy(device, host, size, cudaMemcpyHostToDevice);
  return device;
}
void fetch(void* host, const void* device, size_t size) { cudaMemcpy(host, device, size, cudaMemcpyDeviceToHost); }
void device_free(void* device) { cudaFree(device); }
#else
bool device_found() { return true; }
void* device_copy(const void* host, size_t size) {
  void* device = std::aligned_alloc(256, (size + 255) / 256 * 256);
  return std::memcpy(device, host, size);
}
void fetch(void* host, const void* device, size_t size) { std::memcpy(host, device, size); }
void device_free(void* device) { std::free(device); }
#endif

struct Tensor {
  std::vector<uint8_t> host;
  std::unique_ptr<void, void (*)(void*)> device;

  explicit Tensor(std::vector<uint8_t> bytes)
      : host(std::move(bytes)), device(device_copy(host.data(), host.size()), device_free) {}

  std::vector<uint8_t> result() const {
    std::vector<uint8_t> bytes(host.size());
    fetch(bytes.data(), device.get(), bytes.size());
    return bytes;
  }
};

std::mt19937 generator;

size_t size_of(int dtype) { return dtype == FLORENCE_F32 ? 4 : 2; }

Tensor zeros(size_t bytes) { return Tensor(std::vector<uint8_t>(bytes)); }

std::vector<uint8_t> random_bytes(size_t count) {
  std::vector<uint8_t> bytes(count);
  for (uint8_t& byte : bytes) byte = uint8_t(generator());
  return bytes;
}

Tensor random_tensor(size_t count, int dtype) {
  std::vector<uint8_t> bytes(count * size_of(dtype));
  std::normal_distribution<float> normal;
  with_dtype(dtype, [&](auto element) {
    using T = decltype(element);
    for (size_t i = 0; i < count; ++i) reinterpret_cast<T*>(bytes.data())[i] = from_float<T>(normal(generator));
  });
  return Tensor(std::move(bytes));
}

template <class T>
Tensor tensor_of(const std::vector<T>& values) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
  return Tensor(std::vector<uint8_t>(bytes, bytes + values.size() * sizeof(T)));
}

int failures = 0;

// What the twin left on the host against what the kernel left on the device.
void compare(const std::string& name, int dtype, const Tensor& tensor) {
  const std::vector<uint8_t> actual = tensor.result();
  const float tolerance = dtype == FLORENCE_F32 ? 1e-5f : dtype == FLORENCE_F16 ? 3e-3f : 2e-2f;
  double worst = 0;
  with_dtype(dtype, [&](auto element) {
    using T = decltype(element);
    for (size_t i = 0; i < actual.size() / sizeof(T); ++i) {
      const double a = to_float(reinterpret_cast<const T*>(actual.data())[i]);
      const double b = to_float(reinterpret_cast<const T*>(tensor.host.data())[i]);
      worst = std::max(worst, std::abs(a - b) / (1 + std::abs(b)));
      if (std::isnan(a)) worst = INFINITY;
    }
  });
  const bool good = worst <= tolerance;
  failures += !good;
  std::printf("%-6s %-40s largest difference %.1e\n", good ? "ok" : "FAILED", name.c_str(), worst);
}

void expect_ok(const std::string& name, int status) {
  if (status == FLORENCE_OK) return;
  ++failures;
  std::printf("FAILED %-40s status %d: %s\n", name.c_str(), status, florence_last_error());
}

// ---- one function for each operation ----

void resize(int dtype) {
  const florence_resize_dims dims{
      50, 70, 210, 32, 48, FLORENCE_BGR, dtype, {0.485f, 0.456f, 0.406f}, {0.229f, 0.224f, 0.225f}};
  Tensor image(random_bytes(50 * 210)), out = zeros(3 * 32 * 48 * size_of(dtype)),
                                        scratch = zeros(florence_resize_normalize_workspace(&dims));
  expect_ok("resize twin", florence_resize_normalize_cpu(&dims, image.host.data(), out.host.data(), nullptr, nullptr));
  expect_ok("resize", florence_resize_normalize(&dims, static_cast<uint8_t*>(image.device.get()), out.device.get(),
                                                scratch.device.get(), nullptr));
  compare("resize", dtype, out);
}

void windows(int dtype, int path) {
  const florence_window_dims dims{2, 13, 24, 64, 2, 12, dtype, path};
  const Tensor qkv = random_tensor(2 * 13 * 24 * 192, dtype), bias = random_tensor(192, dtype);
  Tensor out = zeros(2 * 13 * 24 * 64 * size_of(dtype));
  expect_ok("windows twin",
            florence_window_attention_cpu(&dims, qkv.host.data(), bias.host.data(), out.host.data(), nullptr));
  expect_ok("windows",
            florence_window_attention(&dims, qkv.device.get(), bias.device.get(), out.device.get(), nullptr));
  compare("window attention, path " + std::to_string(path), dtype, out);
}

void channels(int dtype, int path) {
  const florence_channel_dims dims{2, 700, 64, 2, dtype, path};
  const Tensor qkv = random_tensor(2 * 700 * 192, dtype);
  Tensor out = zeros(2 * 700 * 64 * size_of(dtype)), scratch = zeros(florence_channel_attention_workspace(&dims));
  expect_ok("channels twin", florence_channel_attention_cpu(&dims, qkv.host.data(), out.host.data(), nullptr, nullptr));
  expect_ok("channels",
            florence_channel_attention(&dims, qkv.device.get(), out.device.get(), scratch.device.get(), nullptr));
  compare("channel attention, path " + std::to_string(path), dtype, out);
}

void self_attention(int dtype, int head_dim) {
  const int heads = 3, rows = 6, length = 90, width = heads * head_dim;
  const florence_self_dims dims{2, 3, heads, head_dim, length, 3 * width, dtype, 1, 1 / std::sqrt(float(head_dim))};
  const Tensor qkv = random_tensor(rows * 3 * width, dtype), position = tensor_of<int32_t>({77});
  Tensor k = random_tensor(rows * width * length, dtype), v = random_tensor(rows * width * length, dtype);
  Tensor out = zeros(rows * width * size_of(dtype));
  std::vector<uint8_t> slots(rows * length);
  for (uint8_t& slot : slots) slot = generator() % 3;
  const Tensor indirection(slots);
  auto part = [&](const void* base, int i) { return static_cast<const char*>(base) + i * width * size_of(dtype); };
  auto run = [&](auto op, auto at) {
    const void* fresh = at(qkv);
    return op(&dims, part(fresh, 0), part(fresh, 1), part(fresh, 2), at(k), at(v),
              static_cast<const uint8_t*>(at(indirection)), static_cast<const int32_t*>(at(position)), nullptr, at(out),
              nullptr);
  };
  expect_ok("self twin",
            run(florence_decoder_self_attention_cpu, [](const Tensor& t) { return (void*)t.host.data(); }));
  expect_ok("self", run(florence_decoder_self_attention, [](const Tensor& t) { return t.device.get(); }));
  compare("self-attention, head_dim " + std::to_string(head_dim), dtype, out);
  compare("appended keys", dtype, k);
  compare("appended values", dtype, v);
}

void cross_attention(int dtype, int beams) {
  const int heads = 2, head_dim = 64, source = 200, rows = 2 * beams;
  const florence_cross_dims dims{2, beams, heads, head_dim, source, heads * head_dim, dtype, 0.125f};
  const Tensor q = random_tensor(rows * heads * head_dim, dtype), lengths = tensor_of<int32_t>({200, 131});
  const Tensor k = random_tensor(2 * heads * source * head_dim, dtype),
               v = random_tensor(2 * heads * source * head_dim, dtype);
  Tensor out = zeros(rows * heads * head_dim * size_of(dtype));
  const Tensor scratch = zeros(florence_decoder_cross_attention_workspace(&dims));
  expect_ok("cross twin", florence_decoder_cross_attention_cpu(&dims, q.host.data(), k.host.data(), v.host.data(),
                                                               (const int32_t*)lengths.host.data(), nullptr,
                                                               out.host.data(), nullptr, nullptr));
  expect_ok("cross", florence_decoder_cross_attention(&dims, q.device.get(), k.device.get(), v.device.get(),
                                                      (const int32_t*)lengths.device.get(), nullptr, out.device.get(),
                                                      scratch.device.get(), nullptr));
  compare("cross-attention, beams " + std::to_string(beams), dtype, out);
}

// Both searches see the same logits, and the same bits of allowed tokens, at every step; all choices must be the same.
void beam_search(int dtype, int beams, bool constrained) {
  const florence_beam_dims dims{2, beams, 20000, 10, 12, dtype, 2, 2, 0, 2, 3, 0, FLORENCE_STOP_WHEN_FULL, 1.0f};
  const size_t rows = 2 * size_t(beams);
  Tensor block = zeros(florence_beam_state_size(&dims)), progress = zeros(8);
  const Tensor scratch = zeros(florence_beam_step_workspace(&dims));
  florence_beam_state twin, device;
  expect_ok("bind", florence_beam_state_bind(&dims, block.host.data(), &twin));
  expect_ok("bind", florence_beam_state_bind(&dims, block.device.get(), &device));
  auto* left = reinterpret_cast<int32_t*>(progress.host.data());
  expect_ok("begin twin", florence_beam_begin_cpu(&dims, &twin, left, nullptr));
  expect_ok("begin", florence_beam_begin(&dims, &device, (int32_t*)progress.device.get(), nullptr));
  while (left[0] > 0) {
    const Tensor logits = random_tensor(rows * dims.vocab, dtype), bits(random_bytes(rows * dims.vocab / 8));
    expect_ok("step twin", florence_beam_step_cpu(&dims, &twin, logits.host.data(),
                                                  constrained ? bits.host.data() : nullptr, left, nullptr, nullptr));
    expect_ok("step", florence_beam_step(&dims, &device, logits.device.get(),
                                         constrained ? static_cast<uint8_t*>(bits.device.get()) : nullptr,
                                         static_cast<int32_t*>(progress.device.get()), scratch.device.get(), nullptr));
  }
  const std::vector<uint8_t> result = block.result();
  auto same = [&](const void* field, size_t bytes) {
    const size_t at = static_cast<const uint8_t*>(field) - block.host.data();
    return std::memcmp(result.data() + at, field, bytes) == 0;
  };
  const bool good = progress.result() == progress.host && same(twin.running_tokens, rows * dims.capacity * 4) &&
                    same(twin.indirection, rows * dims.capacity) && same(twin.finished_lengths, rows * 4) &&
                    same(twin.finished_flags, rows * 4) && same(twin.next_tokens, rows * 4);
  failures += !good;
  std::printf("%-6s beam search, beams %d%s\n", good ? "ok" : "FAILED", beams, constrained ? ", constrained" : "");
}

}  // namespace

int main() {
  if (!device_found()) {
    std::puts("skipped: no CUDA device");
    return 77;
  }
  for (int dtype : {FLORENCE_F32, FLORENCE_F16, FLORENCE_BF16}) {
    std::printf("dtype %d\n", dtype);
    resize(dtype);
    for (int path : {FLORENCE_PATH_AUTO, FLORENCE_PATH_PORTABLE}) {
      windows(dtype, path);
      channels(dtype, path);
    }
    for (int head_dim : {32, 64}) self_attention(dtype, head_dim);
    for (int beams : {1, 3, 8}) {
      cross_attention(dtype, beams);
      for (bool constrained : {false, true}) beam_search(dtype, beams, constrained);
    }
  }
  return failures == 0 ? 0 : 1;
}
