#include "creator.h"

#include <cstring>
#include <string>

#include "log.h"
#include "plugin.h"

namespace florence::plugins {

using namespace nvinfer1;

namespace {

// What is wrong with the fields, "" if nothing is; then their values are in the operation.
std::string read_attributes(Operation& operation, const PluginFieldCollection* given) {
  const std::vector<Attribute> attributes = operation.attributes();
  std::vector<bool> found(attributes.size());
  std::string faults, known;
  for (const Attribute& attribute : attributes) known += (known.empty() ? "" : ", ") + std::string(attribute.name);

  for (int i = 0; given != nullptr && i < given->nbFields; ++i) {
    const PluginField& field = given->fields[i];
    size_t row = 0;
    while (row < attributes.size() && std::strcmp(attributes[row].name, field.name) != 0) ++row;
    if (row == attributes.size()) {
      faults += std::string("; unknown attribute ") + field.name + ", known are: " + known;
    } else if (field.type != attributes[row].type || field.length != 1 || field.data == nullptr) {
      const bool whole = attributes[row].type == PluginFieldType::kINT32;
      faults += std::string("; attribute ") + field.name + " must be one " + (whole ? "int32" : "float32");
    } else {
      std::memcpy(attributes[row].value, field.data, 4);
      found[row] = true;
    }
  }
  for (size_t row = 0; row < attributes.size(); ++row) {
    if (attributes[row].required && !found[row]) {
      faults += std::string("; attribute ") + attributes[row].name + " is missing";
    }
  }
  return faults;
}

}  // namespace

Creator::Creator(Make make) : make_(make) {
  const std::unique_ptr<Operation> operation = make();
  name_ = operation->signature().name;
  for (const Attribute& attribute : operation->attributes()) {
    fields_.emplace_back(attribute.name, nullptr, attribute.type, 1);
  }
  collection_ = {int32_t(fields_.size()), fields_.data()};
}

const char* Creator::getPluginVersion() const noexcept { return kVersion; }
const char* Creator::getPluginNamespace() const noexcept { return kNamespace; }

IPluginV3* Creator::createPlugin(const char* layer, const PluginFieldCollection* fields, TensorRTPhase) noexcept {
  return guarded<IPluginV3*>(nullptr, [&]() -> IPluginV3* {
    std::unique_ptr<Operation> operation = make_();
    const std::string faults = read_attributes(*operation, fields);
    if (faults.empty()) return new Plugin(std::move(operation));
    log_error(
        (std::string("florence plugin: ") + name_ + " of layer " + (layer == nullptr ? "?" : layer) + faults).c_str());
    return nullptr;
  });
}

}  // namespace florence::plugins
