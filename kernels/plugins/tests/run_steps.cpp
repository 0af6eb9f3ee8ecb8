// What a runtime does with a plugin: shape changes and calls.
#include <cmath>
#include <cstdio>
#include <random>
#include <utility>

#include "florence_kernels.h"
#include "numbers.h"
#include "steps.h"

namespace florence::test {

using namespace nvinfer1;

namespace {

std::vector<uint8_t> content(const Input& input, int dtype, std::mt19937& generator) {
  if (!input.numbers.empty()) {
    std::vector<uint8_t> bytes(input.numbers.size() * 4);
    std::memcpy(bytes.data(), input.numbers.data(), bytes.size());
    return bytes;
  }
  size_t count = 1;
  for (int64_t side : input.shape) count *= size_t(side);
  std::vector<uint8_t> bytes;
  std::normal_distribution<float> normal;
  cpu::with_dtype(dtype, [&](auto element) {
    using T = decltype(element);
    bytes.resize(count * sizeof(T));
    for (size_t i = 0; i < count; ++i) reinterpret_cast<T*>(bytes.data())[i] = cpu::from_float<T>(normal(generator));
  });
  return bytes;
}

double largest_difference(int dtype, const std::vector<uint8_t>& actual, const std::vector<uint8_t>& expected) {
  double worst = 0;
  cpu::with_dtype(dtype, [&](auto element) {
    using T = decltype(element);
    for (size_t i = 0; i < actual.size() / sizeof(T); ++i) {
      const double a = cpu::to_float(reinterpret_cast<const T*>(actual.data())[i]);
      const double b = cpu::to_float(reinterpret_cast<const T*>(expected.data())[i]);
      worst = std::isnan(a) ? INFINITY : std::max(worst, std::abs(a - b) / (1 + std::abs(b)));
    }
  });
  return worst;
}

}  // namespace

void enqueues(const Context& context, const Case& given, IPluginV3& plugin, Element element) {
  const auto [dtype, type] = element;
  const Tensors tensors = describe(given, type);
  const int count = tensors.count();
  const Place place = context.can_run ? context.place : Place::kHost;
  const std::vector<DynamicPluginTensorDesc> io = dynamic(tensors);
  const size_t scratch = build_of(plugin).getWorkspaceSize(io.data(), count, io.data() + count, 1);

  std::mt19937 generator;
  std::vector<std::vector<uint8_t>> host;
  std::deque<Buffer> buffers;
  std::vector<const void*> inputs, on_host;
  for (const Input& input : given.inputs) {
    host.push_back(content(input, dtype, generator));
    inputs.push_back(buffers.emplace_back(place, host.back()).data());
  }
  for (const auto& bytes : host) on_host.push_back(bytes.data());
  size_t size = dtype == FLORENCE_F32 ? 4 : 2;
  for (int64_t side : given.output) size *= size_t(side);
  // Rows of images that are done stay as they are: zero, here and there.
  std::vector<uint8_t> expected(size);
  const Buffer output(place, expected), workspace(place, std::vector<uint8_t>(scratch + 1, 0xFF));
  void* outputs[] = {output.data()};
  auto& runtime = runtime_of(plugin);
  const auto enqueue = [&] {
    return runtime.enqueue(tensors.inputs.data(), &tensors.output, inputs.data(), outputs, workspace.data(), nullptr);
  };

  REQUIRE(runtime.onShapeChange(tensors.inputs.data(), count, &tensors.output, 1) == 0);
  const int status = enqueue();
  if (!context.can_run) {
    REQUIRE(status > FLORENCE_CUDA_ERROR && !context.log.take().empty());
  } else {
    if (status != 0) throw std::runtime_error(context.log.take());
    REQUIRE(given.twin(dtype, on_host, expected.data()) == FLORENCE_OK);
    const double difference = largest_difference(dtype, output.bytes(), expected);
    std::printf("       dtype %d: largest difference %.1e\n", dtype, difference);
    REQUIRE(difference <= (dtype == FLORENCE_F32 ? 1e-5 : dtype == FLORENCE_F16 ? 3e-3 : 2e-2));
    for (int i = 0; i < count; ++i) REQUIRE(buffers[i].bytes() == host[i]);
  }
  const void* first = std::exchange(inputs[0], nullptr);
  REQUIRE(enqueue() == FLORENCE_NULL_POINTER && contains(context.log.take(), "is NULL"));
  inputs[0] = static_cast<const char*>(first) + 2;
  REQUIRE(enqueue() == FLORENCE_MISALIGNED && contains(context.log.take(), "16 bytes"));
}

void refuses_bad_shapes(const Context& context, const Case& given, IPluginV3& plugin, Element element) {
  auto& runtime = runtime_of(plugin);
  Tensors tensors = describe(given, element.type);
  const int count = tensors.count();
  const auto change = [&](int inputs) {
    return runtime.onShapeChange(tensors.inputs.data(), inputs, &tensors.output, 1);
  };
  for (const Refusal& refusal : given.refusals) {
    const PluginTensorDesc good = tensors.inputs[refusal.input];
    tensors.inputs[refusal.input].dims = dims_of(refusal.shape);
    REQUIRE(change(count) != 0);
    const std::string message = context.log.take();
    if (!contains(message, refusal.words)) throw std::runtime_error(message + "does not say: " + refusal.words);
    tensors.inputs[refusal.input] = good;
  }
  REQUIRE(change(0) != 0 && contains(context.log.take(), "0 inputs are given"));
  REQUIRE(change(count) == 0);
  tensors.inputs[0].type = DataType::kINT32;
  REQUIRE(change(count) != 0 && contains(context.log.take(), "allowed are fp32, fp16 and bf16"));
}

}  // namespace florence::test
