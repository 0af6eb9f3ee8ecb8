#include "plugin.h"

#include "checks.h"
#include "florence_plugins.h"
#include "log.h"

namespace florence::plugins {

using namespace nvinfer1;

namespace {

// The largest shapes of the profile. Their workspace serves every smaller call, and is frozen into the engine.
int set_largest_shapes(Operation& operation, const DynamicPluginTensorDesc* inputs, int count) {
  std::vector<PluginTensorDesc> largest;
  for (int i = 0; i < count; ++i) {
    largest.push_back(inputs[i].desc);
    largest.back().dims = inputs[i].max;
  }
  return set_checked_shapes(operation, largest.data(), count);
}

}  // namespace

IPluginCapability* Plugin::getCapabilityInterface(PluginCapabilityType type) noexcept {
  switch (type) {
    case PluginCapabilityType::kCORE:
      return static_cast<IPluginV3OneCore*>(this);
    case PluginCapabilityType::kBUILD:
      return static_cast<IPluginV3OneBuild*>(this);
    case PluginCapabilityType::kRUNTIME:
      return static_cast<IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

IPluginV3* Plugin::clone() noexcept {
  return guarded<IPluginV3*>(nullptr, [&] { return new Plugin(operation_->clone()); });
}

int32_t Plugin::configurePlugin(const DynamicPluginTensorDesc* inputs, int32_t input_count,
                                const DynamicPluginTensorDesc*, int32_t) noexcept {
  return guarded<int32_t>(-1, [&] { return report(set_largest_shapes(*operation_, inputs, input_count)); });
}

int32_t Plugin::getOutputDataTypes(DataType* outputs, int32_t output_count, const DataType* inputs,
                                   int32_t input_count) const noexcept {
  if (output_count != 1 || input_count < 1) return FLORENCE_BAD_SHAPE;
  outputs[0] = inputs[0];
  return FLORENCE_OK;
}

int32_t Plugin::getOutputShapes(const DimsExprs* inputs, int32_t input_count, const DimsExprs*, int32_t,
                                DimsExprs* outputs, int32_t output_count, IExprBuilder& build) noexcept {
  return guarded<int32_t>(-1, [&] {
    const Signature& signature = operation_->signature();
    if (output_count != 1 || input_count < signature.required || input_count > int(signature.inputs.size())) {
      return report(refuse(FLORENCE_BAD_SHAPE, "%s: %d inputs and %d outputs, allowed are %d to %zu and 1",
                           signature.name, input_count, output_count, signature.required, signature.inputs.size()));
    }
    for (int i = 0; i < input_count; ++i) {
      const Port& port = signature.inputs[i];
      if (inputs[i].nbDims == port.rank) continue;
      return report(refuse(FLORENCE_BAD_SHAPE, "%s: %s has %d dimensions, needed are %d", signature.name, port.name,
                           inputs[i].nbDims, port.rank));
    }
    operation_->output_shape(inputs, build, outputs);
    return int(FLORENCE_OK);
  });
}

bool Plugin::supportsFormatCombination(int32_t index, const DynamicPluginTensorDesc* tensors, int32_t input_count,
                                       int32_t) noexcept {
  const std::vector<Port>& ports = operation_->signature().inputs;
  const PluginTensorDesc& tensor = tensors[index].desc;
  if (tensor.format != TensorFormat::kLINEAR || input_count > int(ports.size())) return false;
  if (index < input_count && ports[index].kind == Kind::kInt32) return tensor.type == DataType::kINT32;
  return dtype_of(tensor.type) >= 0 && tensor.type == tensors[0].desc.type;
}

size_t Plugin::getWorkspaceSize(const DynamicPluginTensorDesc* inputs, int32_t input_count,
                                const DynamicPluginTensorDesc*, int32_t) const noexcept {
  return guarded<size_t>(0, [&] {
    const std::unique_ptr<Operation> sized = operation_->clone();
    return report(set_largest_shapes(*sized, inputs, input_count)) == FLORENCE_OK ? sized->workspace() : 0;
  });
}

const char* Plugin::getTimingCacheID() noexcept {
  return guarded<const char*>(nullptr, [&] {
    timing_id_ = "abi=" + std::to_string(FLORENCE_PLUGINS_ABI_VERSION);
    for (const Attribute& attribute : operation_->attributes()) {
      const bool whole = attribute.type == PluginFieldType::kINT32;
      timing_id_ += ";" + std::string(attribute.name) + "=" +
                    (whole ? std::to_string(*static_cast<const int32_t*>(attribute.value))
                           : std::to_string(*static_cast<const float*>(attribute.value)));
    }
    return timing_id_.c_str();
  });
}

int32_t Plugin::onShapeChange(const PluginTensorDesc* inputs, int32_t input_count, const PluginTensorDesc*,
                              int32_t) noexcept {
  return guarded<int32_t>(-1, [&] { return report(set_checked_shapes(*operation_, inputs, input_count)); });
}

int32_t Plugin::enqueue(const PluginTensorDesc*, const PluginTensorDesc*, const void* const* inputs,
                        void* const* outputs, void* workspace, cudaStream_t stream) noexcept {
  return guarded<int32_t>(-1, [&] { return report(operation_->launch(inputs, outputs[0], workspace, stream)); });
}

IPluginV3* Plugin::attachToContext(IPluginResourceContext*) noexcept { return clone(); }

const PluginFieldCollection* Plugin::getFieldsToSerialize() noexcept {
  return guarded<const PluginFieldCollection*>(nullptr, [&] {
    fields_.clear();
    for (const Attribute& attribute : operation_->attributes()) {
      fields_.emplace_back(attribute.name, attribute.value, attribute.type, 1);
    }
    collection_ = {int32_t(fields_.size()), fields_.data()};
    return &collection_;
  });
}

}  // namespace florence::plugins
