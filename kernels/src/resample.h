// The antialiased bicubic filter as Pillow 13 computes it for 8-bit images (src/libImaging/Resample.c:
// precompute_coeffs, normalize_coeffs_8bpc, ImagingResample). Compiled for the host and for the device: one formula,
// two callers.
#pragma once

#include <cstdint>

#include "florence_kernels.h"

#ifdef __CUDACC__
#define FLORENCE_HOST_DEVICE __host__ __device__
#else
#define FLORENCE_HOST_DEVICE
#endif

namespace florence {

constexpr int kWeightBits = 22;  // 32 bits less 8 for the pixel and 2 for the overshoot of the filter

// One axis of a resize: output position o reads `taps` input positions at most.
struct Axis {
  double scale;    // input positions per output position
  double support;  // reach of the filter in input positions
  int32_t in_size, out_size, taps;
};

inline Axis make_axis(int32_t in_size, int32_t out_size) {
  Axis axis{double(in_size) / out_size, 0, in_size, out_size, 0};
  axis.support = 2.0 * (axis.scale < 1.0 ? 1.0 : axis.scale);
  const int32_t reach = int32_t(axis.support);
  axis.taps = 2 * (reach + (axis.support > reach ? 1 : 0)) + 1;
  return axis;
}

FLORENCE_HOST_DEVICE inline double bicubic(double x) {
  const double a = -0.5;
  if (x < 0.0) x = -x;
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

// Which pass comes first decides what is rounded to 8 bits. Pillow 13 begins with the columns where that saves more
// than twice as many rows as the other order saves columns; earlier releases always begin with the rows, which changes
// some pixels by one or two levels.
inline bool columns_first(const florence_resize_dims& dims) {
  const int64_t rows_saved = int64_t(dims.in_height) - dims.out_height;
  return rows_saved > 0 && rows_saved > 2 * (int64_t(dims.in_width) - dims.out_width);
}

struct Span {
  int32_t first, count;
};

// The input positions of output position `o`, and their fixed-point weights, which sum to 2^kWeightBits but for
// rounding.
FLORENCE_HOST_DEVICE inline Span make_weights(const Axis& axis, int32_t o, int32_t* weights) {
  const double center = (o + 0.5) * axis.scale, sharpness = 1.0 / (axis.support / 2.0);
  int32_t first = int32_t(center - axis.support + 0.5), end = int32_t(center + axis.support + 0.5);
  if (first < 0) first = 0;
  if (end > axis.in_size) end = axis.in_size;
  double sum = 0;
  for (int32_t i = first; i < end; ++i) sum += bicubic((i - center + 0.5) * sharpness);
  for (int32_t i = first; i < end; ++i) {
    double weight = bicubic((i - center + 0.5) * sharpness);
    if (sum != 0.0) weight /= sum;
    weights[i - first] = int32_t((weight < 0 ? -0.5 : 0.5) + weight * (1 << kWeightBits));
  }
  return {first, end - first};
}

FLORENCE_HOST_DEVICE inline uint8_t round_to_pixel(int32_t fixed) {
  const int32_t value = fixed >> kWeightBits;
  return uint8_t(value < 0 ? 0 : value > 255 ? 255 : value);
}

}  // namespace florence
