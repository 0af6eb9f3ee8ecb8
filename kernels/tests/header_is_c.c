/* The header is C, the library exports what the header declares for this build, and refusals come with a reason. */
#include <stdio.h>
#include <string.h>

#include "florence_kernels.h"

static int expect(int condition, const char* what) {
  if (!condition) fprintf(stderr, "failed: %s\n", what);
  return condition ? 0 : 1;
}

int main(void) {
  florence_window_dims window = {1, 12, 12, 64, 2, 12, FLORENCE_F32, FLORENCE_PATH_AUTO};
  int failures = 0;
  failures += expect(florence_abi_version() == FLORENCE_ABI_VERSION, "ABI version of library and header");
  failures += expect(florence_window_attention_cpu(&window, NULL, NULL, NULL, NULL) == FLORENCE_NULL_POINTER, "NULL");
  failures += expect(strstr(florence_last_error(), "qkv") != NULL, "the message names the arguments");
  window.channels = 48;
  failures +=
      expect(florence_window_attention_cpu(&window, &window, NULL, &window, NULL) == FLORENCE_BAD_SHAPE, "shape");
  failures += expect(strcmp(florence_status_string(FLORENCE_BAD_SHAPE), "unsupported shape") == 0, "status text");
  printf("florence_kernels %s, ABI %d, CUDA %d [%s]\n", florence_version(), florence_abi_version(),
         florence_cuda_version(), florence_cuda_archs());
  return failures;
}
