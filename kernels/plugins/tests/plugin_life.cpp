// Takes every plugin of a library through the life that TensorRT gives it, without TensorRT: creation and refusals,
// clone, capabilities, types, formats, shapes, serialisation, restoring, shape changes, enqueue.
//   plugin_life LIBRARY host     kernels of the emulator: enqueue is compared with the twin
//   plugin_life LIBRARY device   CUDA kernels: compared where there is a GPU; without one, enqueue must return an error
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>

#include "florence_kernels.h"
#include "florence_plugins.h"
#include "steps.h"

namespace florence::test {
namespace {

using namespace nvinfer1;

IPluginCreatorV3One& creator_of(const Context& context, const std::string& name) {
  int32_t count = 0;
  auto* const* creators = context.library.get<IPluginCreatorInterface* const*(int32_t&)>("getCreators")(count);
  REQUIRE(count == 4);
  for (int i = 0; i < count; ++i) {
    REQUIRE(std::string(creators[i]->getInterfaceInfo().kind) == "PLUGIN CREATOR_V3ONE");
    auto* creator = static_cast<IPluginCreatorV3One*>(creators[i]);
    if (creator->getPluginName() == name) return *creator;
  }
  throw std::runtime_error("no creator is named " + name);
}

// The attributes as the ONNX parser passes them: fields that point at values which are gone after creation.
class Fields {
 public:
  explicit Fields(const std::vector<Value>& values) {
    for (const Value& value : values) {
      const int32_t whole = int32_t(value.number);
      std::memcpy(&storage_.emplace_back(), value.whole ? (const void*)&whole : &value.number, 4);
      fields_.emplace_back(value.name, &storage_.back(),
                           value.whole ? PluginFieldType::kINT32 : PluginFieldType::kFLOAT32, 1);
    }
    collection_ = {int32_t(fields_.size()), fields_.data()};
  }
  std::vector<PluginField>& list() { return fields_; }
  const PluginFieldCollection* collection() const { return &collection_; }

 private:
  std::deque<uint32_t> storage_;
  std::vector<PluginField> fields_;
  PluginFieldCollection collection_;
};

using PluginPointer = std::unique_ptr<IPluginV3>;

PluginPointer create(const Context& context, const Case& given, const Fields& fields, TensorRTPhase phase) {
  return PluginPointer(creator_of(context, given.plugin).createPlugin("layer", fields.collection(), phase));
}

void refuses_bad_attributes(const Context& context, const Case& given) {
  const auto refused = [&](const Fields& fields, const std::string& words) {
    REQUIRE(create(context, given, fields, TensorRTPhase::kBUILD) == nullptr);
    REQUIRE(contains(context.log.take(), words));
  };
  std::vector<Value> more = given.attributes;
  more.push_back({"colour", true, 1});
  refused(Fields(more), "unknown attribute colour");
  for (size_t i = 0; i < given.attributes.size(); ++i) {
    std::vector<Value> other_type = given.attributes;
    other_type[i].whole = !other_type[i].whole;
    refused(Fields(other_type), std::string(given.attributes[i].name) + " must be one");
    Fields two(given.attributes), none(given.attributes);
    two.list()[i].length = 2;
    refused(two, "must be one");
    none.list()[i].data = nullptr;
    refused(none, "must be one");
    if (std::string(given.attributes[i].name) == "scale") refused(Fields({}), "attribute scale is missing");
  }
}

void advertises_its_attributes(const Context& context, const Case& given) {
  IPluginCreatorV3One& creator = creator_of(context, given.plugin);
  REQUIRE(std::string(creator.getPluginVersion()) == "1" && std::string(creator.getPluginNamespace()).empty());
  const PluginFieldCollection& names = *creator.getFieldNames();
  for (const Value& value : given.attributes) {
    bool found = false;
    for (int i = 0; i < names.nbFields; ++i) found |= std::string(names.fields[i].name) == value.name;
    REQUIRE(found);
  }
}

// What an engine stores: the values of the fields, to make the plugin from again in another process.
std::vector<Value> serialised(IPluginV3& plugin) {
  std::vector<Value> values;
  const PluginFieldCollection& fields = *runtime_of(plugin).getFieldsToSerialize();
  for (int i = 0; i < fields.nbFields; ++i) {
    const PluginField& field = fields.fields[i];
    const bool whole = field.type == PluginFieldType::kINT32;
    values.push_back(
        {field.name, whole,
         whole ? float(*static_cast<const int32_t*>(field.data)) : *static_cast<const float*>(field.data)});
  }
  return values;
}

void lives(const Context& context, const Case& given) {
  advertises_its_attributes(context, given);
  refuses_bad_attributes(context, given);
  auto fields = std::make_unique<Fields>(given.attributes);
  PluginPointer made = create(context, given, *fields, TensorRTPhase::kBUILD);
  REQUIRE(made != nullptr);
  fields.reset();
  PluginPointer plugin(made->clone());
  const std::string timing = build_of(*made).getTimingCacheID();
  made.reset();

  REQUIRE(std::string(core_of(*plugin).getPluginName()) == given.plugin);
  REQUIRE(std::string(core_of(*plugin).getPluginVersion()) == "1");
  REQUIRE(std::string(core_of(*plugin).getPluginNamespace()).empty());
  REQUIRE(std::string(core_of(*plugin).getInterfaceInfo().kind) == "PLUGIN_V3ONE_CORE");
  REQUIRE(std::string(build_of(*plugin).getInterfaceInfo().kind) == "PLUGIN_V3ONE_BUILD");
  REQUIRE(std::string(runtime_of(*plugin).getInterfaceInfo().kind) == "PLUGIN_V3ONE_RUNTIME");
  accepts_its_formats_only(given, *plugin);

  const Element elements[] = {
      {FLORENCE_F32, DataType::kFLOAT}, {FLORENCE_F16, DataType::kHALF}, {FLORENCE_BF16, DataType::kBF16}};
  for (const Element& element : elements) answers_the_builder(context, given, *plugin, element);

  PluginPointer restored = create(context, given, Fields(serialised(*plugin)), TensorRTPhase::kRUNTIME);
  REQUIRE(restored != nullptr);
  plugin.reset();
  REQUIRE(timing == build_of(*restored).getTimingCacheID());
  PluginPointer attached(runtime_of(*restored).attachToContext(nullptr));
  restored.reset();
  REQUIRE(runtime_of(*attached).setTactic(0) == 0);
  for (const Element& element : elements) {
    refuses_bad_shapes(context, given, *attached, element);
    enqueues(context, given, *attached, element);
  }
  REQUIRE(context.log.take().empty());
}

int run(const char* path, Place place) {
  const Library library(path, RTLD_NOW | RTLD_LOCAL);
  REQUIRE(library.get<int32_t()>("florence_plugins_abi_version")() == FLORENCE_PLUGINS_ABI_VERSION);
  REQUIRE(library.get<int32_t()>("florence_plugins_tensorrt_version")() / 10000 == NV_TENSORRT_MAJOR);
  Log log;
  library.get<void(ILoggerFinder*)>("setLoggerFinder")(&log);
  const Context context{library, log, place, place == Place::kHost || gpu_found()};
  std::printf("TensorRT headers %d, enqueue %s\n", library.get<int32_t()>("florence_plugins_tensorrt_version")(),
              !context.can_run        ? "must fail: no GPU"
              : place == Place::kHost ? "compared with the twin, on the emulator"
                                      : "compared with the twin, on a GPU");
  int failures = 0;
  for (const Case& given : cases()) {
    try {
      std::printf("%s: %s\n", given.plugin, given.title.c_str());
      lives(context, given);
    } catch (const std::exception& error) {
      ++failures;
      std::printf("FAILED %s\n", error.what());
    }
  }
  library.get<void(ILoggerFinder*)>("setLoggerFinder")(nullptr);
  std::printf("%s\n", failures == 0 ? "ok" : "FAILED");
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace florence::test

int main(int argc, char** argv) {
  if (argc != 3) {
    std::puts("plugin_life LIBRARY host|device");
    return 2;
  }
  try {
    return florence::test::run(
        argv[1], argv[2] == std::string("host") ? florence::test::Place::kHost : florence::test::Place::kDevice);
  } catch (const std::exception& error) {
    std::printf("FAILED %s\n", error.what());
    return 1;
  }
}
