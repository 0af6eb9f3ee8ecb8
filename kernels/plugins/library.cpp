// The library's exports: TensorRT's two entry points and the probes of florence_plugins.h.
#include <NvInferRuntime.h>

#include "creator.h"
#include "florence_plugins.h"
#include "log.h"

#define FLORENCE_EXPORT extern "C" __attribute__((visibility("default")))

using florence::plugins::Creator;

// The creators live as long as the library, since the registry keeps pointers to them.
FLORENCE_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  static Creator window(florence::plugins::make_window_attention);
  static Creator channel(florence::plugins::make_channel_attention);
  static Creator self(florence::plugins::make_self_attention);
  static Creator cross(florence::plugins::make_cross_attention);
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&window, &channel, &self, &cross};
  count = sizeof creators / sizeof *creators;
  return creators;
}

FLORENCE_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { florence::plugins::set_logger_finder(finder); }

FLORENCE_EXPORT int32_t florence_plugins_abi_version(void) { return FLORENCE_PLUGINS_ABI_VERSION; }

FLORENCE_EXPORT int32_t florence_plugins_tensorrt_version(void) {
  return NV_TENSORRT_MAJOR * 10000 + NV_TENSORRT_MINOR * 100 + NV_TENSORRT_PATCH;
}
