#include "checks.h"
#include "numbers.h"
#include "softmax.h"

namespace florence::cpu {
namespace {

// One image and group; q, k and v are kHeadDim wide and lie `channels` elements apart in each token.
template <class T>
void attend_group(const florence_channel_dims& dims, const T* q, T* out) {
  const size_t stride = 3 * size_t(dims.channels), out_stride = dims.channels;
  const T *k = q + dims.channels, *v = k + dims.channels;
  const double scale = 1 / std::sqrt(double(dims.tokens));
  for (int i = 0; i < kHeadDim; ++i) {
    std::vector<double> weights(kHeadDim, 0.0);
    for (int j = 0; j < kHeadDim; ++j) {
      double dot = 0;
      for (int n = 0; n < dims.tokens; ++n) dot += double(to_float(q[n * stride + i])) * to_float(k[n * stride + j]);
      weights[j] = dot * scale;
    }
    softmax(weights);
    for (int n = 0; n < dims.tokens; ++n) {
      double sum = 0;
      for (int j = 0; j < kHeadDim; ++j) sum += weights[j] * to_float(v[n * stride + j]);
      out[n * out_stride + i] = from_float<T>(float(sum));
    }
  }
}

template <class T>
void run(const florence_channel_dims& dims, const T* qkv, T* out) {
  const size_t image = size_t(dims.tokens) * dims.channels;
  for (int b = 0; b < dims.batch; ++b) {
    for (int group = 0; group < dims.groups; ++group) {
      attend_group(dims, qkv + b * 3 * image + group * kHeadDim, out + b * image + group * kHeadDim);
    }
  }
}

}  // namespace
}  // namespace florence::cpu

int florence_channel_attention_cpu(const florence_channel_dims* dims, const void* qkv, void* out, void*, void*) {
  FLORENCE_TRY(florence::check(dims));
  FLORENCE_REQUIRE("channel_attention", qkv, out);
  florence::cpu::with_dtype(dims->dtype, [&](auto element) {
    using T = decltype(element);
    florence::cpu::run(*dims, static_cast<const T*>(qkv), static_cast<T*>(out));
  });
  return FLORENCE_OK;
}
