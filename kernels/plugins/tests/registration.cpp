// How the plugins get into TensorRT's registry, against a double of it:
//   registration load PLUGINS AUTOREGISTER DOUBLE           loadLibrary, a second time, and the shim when all is done
//   registration autoregister PLUGINS AUTOREGISTER DOUBLE   the shim alone, the double being loaded out of sight
//   registration absent|other ...                           the shim without TensorRT, and with another major version
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "tensorrt_double.h"

namespace florence::test {
namespace {

using nvinfer1::IPluginRegistry;

// What f writes to the standard error stream.
template <class F>
std::string errors_of(F f) {
  std::FILE* file = std::tmpfile();
  REQUIRE(file != nullptr);
  std::fflush(stderr);
  const int before = dup(STDERR_FILENO);
  dup2(fileno(file), STDERR_FILENO);
  f();
  std::fflush(stderr);
  dup2(before, STDERR_FILENO);
  close(before);
  char text[1024];
  std::rewind(file);
  const size_t size = std::fread(text, 1, sizeof text, file);
  std::fclose(file);
  return std::string(text, size);
}

int registered(const Library& tensorrt) {
  int32_t count = 0;
  tensorrt.get<IPluginRegistry*()>("getPluginRegistry")()->getAllCreators(&count);
  return count;
}

void run(const std::string& mode, const char* plugins, const char* shim, const char* path) {
  const auto load_shim = [&] { REQUIRE(dlopen(shim, RTLD_NOW | RTLD_LOCAL) != nullptr); };
  if (mode == "absent") {
    const std::string said = errors_of(load_shim);
    REQUIRE(said.find("no TensorRT") != std::string::npos);
    return;
  }
  const Library tensorrt(path, RTLD_NOW | RTLD_LOCAL);
  if (mode == "load") {
    IPluginRegistry& registry = *tensorrt.get<IPluginRegistry*()>("getPluginRegistry")();
    REQUIRE(registry.loadLibrary(plugins) != nullptr && registered(tensorrt) == 4);
    for (const char* name : {"FlorenceWindowAttention", "FlorenceChannelAttention", "FlorenceDecoderSelfAttention",
                             "FlorenceDecoderCrossAttention"}) {
      REQUIRE(registry.getCreator(name, "1", "") != nullptr);
    }
    REQUIRE(registry.loadLibrary(plugins) == nullptr && registered(tensorrt) == 4);
    REQUIRE(errors_of(load_shim).empty() && registered(tensorrt) == 4);
  } else if (mode == "autoregister") {
    REQUIRE(errors_of(load_shim).empty() && registered(tensorrt) == 4);
  } else {
    REQUIRE(mode == "other");
    tensorrt.get<void(int32_t)>("registry_double_set_major")(NV_TENSORRT_MAJOR - 1);
    const std::string said = errors_of(load_shim);
    REQUIRE(said.find("use the library built for it") != std::string::npos && registered(tensorrt) == 0);
  }
}

}  // namespace
}  // namespace florence::test

int main(int argc, char** argv) {
  try {
    REQUIRE(argc == 5);
    florence::test::run(argv[1], argv[2], argv[3], argv[4]);
  } catch (const std::exception& error) {
    std::printf("FAILED %s\n", error.what());
    return 1;
  }
  std::puts("ok");
}
