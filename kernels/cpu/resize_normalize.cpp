#include <vector>

#include "checks.h"
#include "numbers.h"
#include "resample.h"

namespace florence::cpu {
namespace {

// A plane of 8-bit values whose neighbours lie `row_step` and `column_step` bytes apart.
struct Plane {
  const uint8_t* data;
  int32_t height, width;
  int64_t row_step, column_step;
};

// Resamples one axis of a plane; the result is dense.
std::vector<uint8_t> resample(const Plane& in, const Axis& axis, bool rows) {
  const int32_t height = rows ? in.height : axis.out_size, width = rows ? axis.out_size : in.width;
  const int64_t step = rows ? in.column_step : in.row_step;
  std::vector<uint8_t> out(size_t(height) * width);
  std::vector<int32_t> weights(axis.taps);
  for (int32_t o = 0; o < axis.out_size; ++o) {
    const Span span = make_weights(axis, o, weights.data());
    for (int32_t line = 0; line < (rows ? height : width); ++line) {
      const uint8_t* source = in.data + line * (rows ? in.row_step : in.column_step) + span.first * step;
      int32_t sum = 1 << (kWeightBits - 1);
      for (int32_t i = 0; i < span.count; ++i) sum += weights[i] * source[i * step];
      out[rows ? size_t(line) * width + o : size_t(o) * width + line] = round_to_pixel(sum);
    }
  }
  return out;
}

template <class T>
void run(const florence_resize_dims& dims, const uint8_t* image, T* out) {
  const Axis across = make_axis(dims.in_width, dims.out_width), down = make_axis(dims.in_height, dims.out_height);
  const size_t plane = size_t(dims.out_height) * dims.out_width;
  const bool rows_second = columns_first(dims);
  for (int c = 0; c < 3; ++c) {
    const int source = dims.channel_order == FLORENCE_BGR ? 2 - c : c;
    const Plane input{image + source, dims.in_height, dims.in_width, dims.row_stride, 3};
    const std::vector<uint8_t> half = resample(input, rows_second ? down : across, !rows_second);
    const int32_t height = rows_second ? dims.out_height : dims.in_height;
    const int32_t width = rows_second ? dims.in_width : dims.out_width;
    const Plane between{half.data(), height, width, width, 1};
    const std::vector<uint8_t> pixels = resample(between, rows_second ? across : down, rows_second);
    for (size_t i = 0; i < plane; ++i) {
      out[c * plane + i] = from_float<T>((pixels[i] / 255.0f - dims.mean[c]) / dims.std[c]);
    }
  }
}

}  // namespace
}  // namespace florence::cpu

int florence_resize_normalize_cpu(const florence_resize_dims* dims, const uint8_t* image, void* out, void*, void*) {
  FLORENCE_TRY(florence::check(dims));
  FLORENCE_REQUIRE("resize_normalize", image, out);
  florence::cpu::with_dtype(
      dims->dtype, [&](auto element) { florence::cpu::run(*dims, image, static_cast<decltype(element)*>(out)); });
  return FLORENCE_OK;
}
