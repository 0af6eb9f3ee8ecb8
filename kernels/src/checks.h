// What the launchers accept. Twins and CUDA kernels call the same checks, so they cannot differ in what they refuse.
#pragma once

#include <initializer_list>

#include "florence_kernels.h"

namespace florence {

constexpr int kHeadDim = 32;          // of DaViT's windows and channel groups
constexpr int kMaxWindow = 12;        // 144 tokens: K and V of a window fit in static shared memory as floats
constexpr int kMaxImageSide = 65535;  // CUDA's limit for gridDim.y
constexpr int kMaxVocab = 131072;
constexpr int kMaxLength = 4096;

// Remembers the message for florence_last_error() and returns `status`.
[[gnu::format(printf, 2, 3)]] int refuse(int status, const char* format, ...);

int check(const florence_resize_dims* dims);
int check(const florence_window_dims* dims);
int check(const florence_channel_dims* dims);
int check(const florence_self_dims* dims);
int check(const florence_cross_dims* dims);
int check(const florence_beam_dims* dims);

// True where the map is not a whole number of windows, so the launcher needs the bias.
inline bool has_padding(const florence_window_dims& dims) {
  return dims.height % dims.window != 0 || dims.width % dims.window != 0;
}

// Refuses if any pointer is NULL; `names` is the comma-separated argument list the pointers came from.
int check_pointers(const char* op, const char* names, std::initializer_list<const void*> pointers);

// Refuses if any pointer is not a multiple of 16 bytes; NULL passes.
int check_alignment(const char* op, std::initializer_list<const void*> pointers);

}  // namespace florence

// Returns from the enclosing function with the status of `expression` unless it is FLORENCE_OK.
#define FLORENCE_TRY(expression)                              \
  do {                                                        \
    if (int status_ = (expression); status_ != FLORENCE_OK) { \
      return status_;                                         \
    }                                                         \
  } while (0)

#define FLORENCE_REQUIRE(op, ...) FLORENCE_TRY(::florence::check_pointers(op, #__VA_ARGS__, {__VA_ARGS__}))
