// Makes a Plugin from the attributes of an ONNX node, or from those that an engine has stored.
#pragma once

#include <NvInferRuntime.h>

#include <memory>
#include <vector>

#include "operation.h"

namespace florence::plugins {

class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  using Make = std::unique_ptr<Operation> (*)();

  explicit Creator(Make make);

  const char* getPluginName() const noexcept override { return name_; }
  const char* getPluginVersion() const noexcept override;
  const char* getPluginNamespace() const noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }

  // nullptr, and every fault in one logged line, if an attribute is unknown, malformed or missing.
  nvinfer1::IPluginV3* createPlugin(const char* layer, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override;

 private:
  Make make_;
  const char* name_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_;
};

}  // namespace florence::plugins
