// A test double of libnvinfer: a plugin registry and a version number, under libnvinfer's soname.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <string>
#include <vector>

using namespace nvinfer1;

namespace {

int32_t major = NV_TENSORRT_MAJOR;

class Registry final : public IPluginRegistry {
 public:
  // As TensorRT documents it: nullptr also if a plugin of the library is registered already.
  PluginLibraryHandle loadLibrary(const char* path) noexcept override {
    void* library = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    if (library == nullptr) return nullptr;
    using Creators = IPluginCreatorInterface* const*(int32_t&);
    auto* creators_of = reinterpret_cast<Creators*>(dlsym(library, "getCreators"));
    if (creators_of == nullptr) return nullptr;
    int32_t count = 0;
    IPluginCreatorInterface* const* found = creators_of(count);
    for (int32_t i = 0; i < count; ++i) {
      if (!registerCreator(*found[i], "")) return nullptr;
    }
    return library;
  }

  bool registerCreator(IPluginCreatorInterface& given, const char*) noexcept override {
    const auto& creator = static_cast<IPluginCreatorV3One&>(given);
    if (getCreator(creator.getPluginName(), creator.getPluginVersion(), creator.getPluginNamespace())) return false;
    creators_.push_back(&given);
    return true;
  }

  IPluginCreatorInterface* getCreator(const char* name, const char* version, const char* space) noexcept override {
    for (IPluginCreatorInterface* candidate : creators_) {
      const auto& creator = static_cast<IPluginCreatorV3One&>(*candidate);
      if (std::string(creator.getPluginName()) == name && std::string(creator.getPluginVersion()) == version &&
          std::string(creator.getPluginNamespace()) == space) {
        return candidate;
      }
    }
    return nullptr;
  }

  IPluginCreatorInterface* const* getAllCreators(int32_t* const count) const noexcept override {
    *count = int32_t(creators_.size());
    return creators_.data();
  }

  void deregisterLibrary(PluginLibraryHandle) noexcept override {}
  bool deregisterCreator(const IPluginCreatorInterface&) noexcept override { return false; }
  void setErrorRecorder(IErrorRecorder* const) noexcept override {}
  IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
  bool isParentSearchEnabled() const override { return true; }
  void setParentSearchEnabled(bool const) override {}
  IPluginResource* acquirePluginResource(const char*, IPluginResource*) noexcept override { return nullptr; }
  int32_t releasePluginResource(const char*) noexcept override { return 0; }

#if NV_TENSORRT_MAJOR < 11
  bool registerCreator(IPluginCreator&, const char* const) noexcept override { return false; }
  IPluginCreator* const* getPluginCreatorList(int32_t* const) const noexcept override { return nullptr; }
  IPluginCreator* getPluginCreator(const char* const, const char* const, const char* const) noexcept override {
    return nullptr;
  }
  bool deregisterCreator(const IPluginCreator&) noexcept override { return false; }
#endif
#if NV_TENSORRT_MAJOR > 10 || NV_TENSORRT_MINOR >= 10
  IPluginCreatorInterface* const* getAllCreatorsRecursive(int32_t* const count) noexcept override {
    return getAllCreators(count);
  }
#endif

 private:
  std::vector<IPluginCreatorInterface*> creators_;
};

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT IPluginRegistry* getPluginRegistry() noexcept {
  static Registry registry;
  return &registry;
}

EXPORT int32_t getInferLibMajorVersion() noexcept { return major; }

EXPORT void registry_double_set_major(int32_t number) { major = number; }
