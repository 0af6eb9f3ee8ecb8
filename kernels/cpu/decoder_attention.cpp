#include <algorithm>

#include "checks.h"
#include "numbers.h"
#include "softmax.h"

namespace florence::cpu {
namespace {

bool is_done(const int32_t* image_done, int image) { return image_done != nullptr && image_done[image] != 0; }

// Calls f(image, row, head) for every query of the images that are still searching.
template <class Dims, class F>
void for_each_query(const Dims& dims, const int32_t* image_done, F f) {
  for (int image = 0; image < dims.batch; ++image) {
    for (int beam = 0; beam < dims.beams && !is_done(image_done, image); ++beam) {
      for (int head = 0; head < dims.heads; ++head) f(image, image * dims.beams + beam, head);
    }
  }
}

// Offset of the first cached position of a row (an image's beam slot) and head.
size_t cache_offset(const florence_self_dims& dims, int row, int head) {
  return (size_t(row) * dims.heads + head) * dims.max_length * dims.head_dim;
}

template <class T>
void append(const florence_self_dims& dims, const T* input, T* cache, int position, const int32_t* image_done) {
  for_each_query(dims, image_done, [&](int, int row, int head) {
    const T* source = input + size_t(row) * dims.row_stride + head * dims.head_dim;
    std::copy(source, source + dims.head_dim, cache + cache_offset(dims, row, head) + size_t(position) * dims.head_dim);
  });
}

template <class T>
void self_attention(const florence_self_dims& dims, const T* q, const T* k, const T* v, const T* k_cache,
                    const T* v_cache, const uint8_t* indirection, int position, const int32_t* image_done, T* out) {
  std::vector<const T*> keys(position + 1), values(position + 1);
  for_each_query(dims, image_done, [&](int image, int row, int head) {
    const size_t input = size_t(row) * dims.row_stride + head * dims.head_dim;
    for (int t = 0; t < position; ++t) {
      const int named = indirection[size_t(row) * dims.max_length + t];
      const int slot = image * dims.beams + std::min(named, dims.beams - 1);
      const size_t cached = cache_offset(dims, slot, head) + size_t(t) * dims.head_dim;
      keys[t] = k_cache + cached;
      values[t] = v_cache + cached;
    }
    keys[position] = k + input;
    values[position] = v + input;
    attend(q + input, keys, values, dims.head_dim, dims.scale, out + (size_t(row) * dims.heads + head) * dims.head_dim);
  });
}

template <class T>
void cross_attention(const florence_cross_dims& dims, const T* q, const T* k, const T* v, const int32_t* lengths,
                     const int32_t* image_done, T* out) {
  for_each_query(dims, image_done, [&](int image, int row, int head) {
    const int valid = lengths == nullptr ? dims.source_length : std::clamp(lengths[image], 0, dims.source_length);
    const size_t source = (size_t(image) * dims.heads + head) * dims.source_length * dims.head_dim;
    std::vector<const T*> keys(valid), values(valid);
    for (int s = 0; s < valid; ++s) {
      keys[s] = k + source + size_t(s) * dims.head_dim;
      values[s] = v + source + size_t(s) * dims.head_dim;
    }
    attend(q + size_t(row) * dims.row_stride + head * dims.head_dim, keys, values, dims.head_dim, dims.scale,
           out + (size_t(row) * dims.heads + head) * dims.head_dim);
  });
}

}  // namespace
}  // namespace florence::cpu

int florence_decoder_self_attention_cpu(const florence_self_dims* dims, const void* q, const void* k, const void* v,
                                        void* k_cache, void* v_cache, const uint8_t* indirection,
                                        const int32_t* position, const int32_t* image_done, void* out, void* stream) {
  FLORENCE_TRY(florence::check(dims));
  FLORENCE_REQUIRE("decoder_self_attention", q, k, v, k_cache, v_cache, indirection, position, out);
  if (*position < 0 || *position >= dims->max_length) return FLORENCE_OK;
  florence::cpu::with_dtype(dims->dtype, [&](auto element) {
    using T = decltype(element);
    florence::cpu::self_attention(*dims, static_cast<const T*>(q), static_cast<const T*>(k), static_cast<const T*>(v),
                                  static_cast<const T*>(k_cache), static_cast<const T*>(v_cache), indirection,
                                  *position, image_done, static_cast<T*>(out));
  });
  if (!dims->append) return FLORENCE_OK;
  return florence_kv_append_cpu(dims, k, v, k_cache, v_cache, position, image_done, stream);
}

int florence_kv_append_cpu(const florence_self_dims* dims, const void* k, const void* v, void* k_cache, void* v_cache,
                           const int32_t* position, const int32_t* image_done, void*) {
  FLORENCE_TRY(florence::check(dims));
  FLORENCE_REQUIRE("kv_append", k, v, k_cache, v_cache, position);
  if (*position < 0 || *position >= dims->max_length) return FLORENCE_OK;
  florence::cpu::with_dtype(dims->dtype, [&](auto element) {
    using T = decltype(element);
    florence::cpu::append(*dims, static_cast<const T*>(k), static_cast<T*>(k_cache), *position, image_done);
    florence::cpu::append(*dims, static_cast<const T*>(v), static_cast<T*>(v_cache), *position, image_done);
  });
  return FLORENCE_OK;
}

int florence_decoder_cross_attention_cpu(const florence_cross_dims* dims, const void* q, const void* k, const void* v,
                                         const int32_t* lengths, const int32_t* image_done, void* out, void*, void*) {
  FLORENCE_TRY(florence::check(dims));
  FLORENCE_REQUIRE("decoder_cross_attention", q, k, v, out);
  florence::cpu::with_dtype(dims->dtype, [&](auto element) {
    using T = decltype(element);
    florence::cpu::cross_attention(*dims, static_cast<const T*>(q), static_cast<const T*>(k), static_cast<const T*>(v),
                                   lengths, image_done, static_cast<T*>(out));
  });
  return FLORENCE_OK;
}
