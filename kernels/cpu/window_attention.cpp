#include "checks.h"
#include "numbers.h"
#include "softmax.h"

namespace florence::cpu {
namespace {

template <class T>
struct Token {
  const T* qkv;  // [3, heads, 32]
  T* out;        // [heads, 32], NULL for a pad token
};

// The window*window tokens of one window, in row order; pad tokens read the bias.
template <class T>
std::vector<Token<T>> partition(const florence_window_dims& dims, const T* qkv, const T* bias, T* out, int top,
                                int left) {
  std::vector<Token<T>> tokens;
  for (int y = top; y < top + dims.window; ++y) {
    for (int x = left; x < left + dims.window; ++x) {
      const size_t token = size_t(y) * dims.width + x;
      const bool inside = y < dims.height && x < dims.width;
      tokens.push_back(inside ? Token<T>{qkv + token * 3 * dims.channels, out + token * dims.channels}
                              : Token<T>{bias, nullptr});
    }
  }
  return tokens;
}

template <class T>
void attend_window(const florence_window_dims& dims, const std::vector<Token<T>>& tokens) {
  std::vector<const T*> keys(tokens.size()), values(tokens.size());
  for (int head = 0; head < dims.heads; ++head) {
    const size_t offset = size_t(head) * kHeadDim;
    for (size_t i = 0; i < tokens.size(); ++i) {
      keys[i] = tokens[i].qkv + dims.channels + offset;
      values[i] = keys[i] + dims.channels;
    }
    for (const Token<T>& token : tokens) {
      if (token.out != nullptr) {
        attend(token.qkv + offset, keys, values, kHeadDim, 1 / std::sqrt(double(kHeadDim)), token.out + offset);
      }
    }
  }
}

template <class T>
void run(const florence_window_dims& dims, const T* qkv, const T* bias, T* out) {
  const size_t image = size_t(dims.height) * dims.width * dims.channels;
  for (int b = 0; b < dims.batch; ++b) {
    for (int top = 0; top < dims.height; top += dims.window) {
      for (int left = 0; left < dims.width; left += dims.window) {
        attend_window(dims, partition(dims, qkv + b * 3 * image, bias, out + b * image, top, left));
      }
    }
  }
}

}  // namespace
}  // namespace florence::cpu

int florence_window_attention_cpu(const florence_window_dims* dims, const void* qkv, const void* bias, void* out,
                                  void*) {
  FLORENCE_TRY(florence::check(dims));
  FLORENCE_REQUIRE("window_attention", qkv, out);
  if (florence::has_padding(*dims)) FLORENCE_REQUIRE("window_attention with padding", bias);
  florence::cpu::with_dtype(dims->dtype, [&](auto element) {
    using T = decltype(element);
    florence::cpu::run(*dims, static_cast<const T*>(qkv), static_cast<const T*>(bias), static_cast<T*>(out));
  });
  return FLORENCE_OK;
}
