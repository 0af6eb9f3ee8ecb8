/* What libflorence_plugins_trt<major>.so exports beside TensorRT's own entry points getCreators and setLoggerFinder.
 * Both functions can be called before TensorRT is loaded: a client asks them first, because a library that was built
 * with the headers of another TensorRT major crashes when it logs. */
#ifndef FLORENCE_PLUGINS_H
#define FLORENCE_PLUGINS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised by one whenever a plugin's inputs, outputs, attributes or their meaning change: an engine runs with the number
 * that it was built with. */
#define FLORENCE_PLUGINS_ABI_VERSION 1

int32_t florence_plugins_abi_version(void);
int32_t florence_plugins_tensorrt_version(void); /* of the headers: 100300 for 10.3.0, 110100 for 11.1.0 */

#ifdef __cplusplus
}
#endif
#endif
