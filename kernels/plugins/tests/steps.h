// The parts of a plugin's life, each of which throws at the first thing that is not as it must be.
#pragma once

#include <vector>

#include "cases.h"
#include "memory.h"
#include "tensorrt_double.h"

namespace florence::test {

struct Context {
  const Library& library;
  Log& log;
  Place place;
  bool can_run;  // false: the kernels are for a GPU and there is none
};

struct Element {
  int dtype;
  nvinfer1::DataType type;
};

template <class T>
T& capability(nvinfer1::IPluginV3& plugin, nvinfer1::PluginCapabilityType type) {
  auto* found = static_cast<T*>(plugin.getCapabilityInterface(type));
  REQUIRE(found != nullptr);
  return *found;
}

inline auto& core_of(nvinfer1::IPluginV3& plugin) {
  return capability<nvinfer1::IPluginV3OneCore>(plugin, nvinfer1::PluginCapabilityType::kCORE);
}
inline auto& build_of(nvinfer1::IPluginV3& plugin) {
  return capability<nvinfer1::IPluginV3OneBuild>(plugin, nvinfer1::PluginCapabilityType::kBUILD);
}
inline auto& runtime_of(nvinfer1::IPluginV3& plugin) {
  return capability<nvinfer1::IPluginV3OneRuntime>(plugin, nvinfer1::PluginCapabilityType::kRUNTIME);
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

struct Tensors {
  std::vector<nvinfer1::PluginTensorDesc> inputs;
  nvinfer1::PluginTensorDesc output;

  int count() const { return int(inputs.size()); }
};

Tensors describe(const Case& given, nvinfer1::DataType element);
nvinfer1::Dims dims_of(const Shape& shape);

// As a builder sees them before it knows the batch: -1 in the tensor, the profile's limits beside it. The output is
// last.
std::vector<nvinfer1::DynamicPluginTensorDesc> dynamic(const Tensors& tensors);

void answers_the_builder(const Context& context, const Case& given, nvinfer1::IPluginV3& plugin, Element element);
void accepts_its_formats_only(const Case& given, nvinfer1::IPluginV3& plugin);
void refuses_bad_shapes(const Context& context, const Case& given, nvinfer1::IPluginV3& plugin, Element element);
void enqueues(const Context& context, const Case& given, nvinfer1::IPluginV3& plugin, Element element);

}  // namespace florence::test
