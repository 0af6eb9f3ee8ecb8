// For tools that only dlopen a plugin library (Polygraphy's --plugins, trtexec's --staticPlugins): registers the plugin
// library beside this file with the TensorRT that is already in the process, unless it is registered.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cstdio>
#include <string>

namespace {

// A function of the TensorRT that is loaded, or nullptr. Python's bindings bring libnvinfer in with RTLD_LOCAL, out of
// sight of RTLD_DEFAULT.
template <class F>
F* find(const char* name) {
  void* symbol = dlsym(RTLD_DEFAULT, name);
  if (symbol == nullptr) {
    const std::string file = "libnvinfer.so." + std::to_string(NV_TENSORRT_MAJOR);
    if (void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_NOLOAD)) symbol = dlsym(library, name);
  }
  return reinterpret_cast<F*>(symbol);
}

std::string beside_this_file(const char* file) {
  Dl_info info;
  dladdr(reinterpret_cast<void*>(&beside_this_file), &info);
  const std::string self = info.dli_fname;
  return self.substr(0, self.rfind('/') + 1) + file;
}

// What went wrong, "" if nothing did.
std::string register_plugins() {
  const std::string wanted = std::to_string(NV_TENSORRT_MAJOR);
  const auto registry_of = find<nvinfer1::IPluginRegistry*()>("getPluginRegistry");
  const auto major_of = find<int32_t()>("getInferLibMajorVersion");
  if (registry_of == nullptr || major_of == nullptr) {
    return "no TensorRT " + wanted + " is loaded in this process; load libnvinfer first";
  }
  if (major_of() != NV_TENSORRT_MAJOR) {
    return "this is for TensorRT " + wanted + ", the one loaded is " + std::to_string(major_of()) +
           "; use the library built for it";
  }
  nvinfer1::IPluginRegistry* registry = registry_of();
  if (registry->getCreator("FlorenceWindowAttention", "1", "") != nullptr) return "";
  const std::string path = beside_this_file(FLORENCE_PLUGINS_FILE);
  if (registry->loadLibrary(path.c_str()) == nullptr) return "TensorRT did not load " + path + "; its log says why";
  return "";
}

__attribute__((constructor)) void at_load() {
  const std::string fault = register_plugins();
  if (!fault.empty()) std::fprintf(stderr, "florence plugins are not registered: %s\n", fault.c_str());
}

}  // namespace
