#include "device.cuh"
#include "resample.h"

namespace florence::device {
namespace {

constexpr int kThreads = 128;

// Weights and spans of one axis, in the workspace.
struct Table {
  Axis axis;
  Span* spans;       // [out_size]
  int32_t* weights;  // [out_size, taps]
};

// One pass over three planes: where the input lies, and the table of the axis that is resampled.
struct Pass {
  Table table;
  bool rows;              // resamples along rows (the fast index), else along columns
  int32_t height, width;  // of the output
  int64_t row_step, column_step, plane_step;
};

struct Plan {
  Table across, down;
  Pass first, second;
  uint8_t* between;  // [3, height, width] of the first pass
  size_t size;
};

template <class T>
T* take(char* base, size_t& offset, size_t count) {
  T* pointer = base == nullptr ? nullptr : reinterpret_cast<T*>(base + offset);
  offset += (count * sizeof(T) + 255) / 256 * 256;
  return pointer;
}

Plan make_plan(const florence_resize_dims& dims, char* workspace) {
  Plan plan{};
  size_t offset = 0;
  auto table = [&](int32_t in_size, int32_t out_size) {
    const Axis axis = make_axis(in_size, out_size);
    Span* spans = take<Span>(workspace, offset, out_size);
    return Table{axis, spans, take<int32_t>(workspace, offset, size_t(out_size) * axis.taps)};
  };
  plan.across = table(dims.in_width, dims.out_width);
  plan.down = table(dims.in_height, dims.out_height);
  const bool down_first = columns_first(dims);
  const int32_t height = down_first ? dims.out_height : dims.in_height;
  const int32_t width = down_first ? dims.in_width : dims.out_width;
  plan.between = take<uint8_t>(workspace, offset, 3 * size_t(height) * width);
  const bool bgr = dims.channel_order == FLORENCE_BGR;
  plan.first = {down_first ? plan.down : plan.across, !down_first, height, width, dims.row_stride, 3, bgr ? -1 : 1};
  plan.second = {down_first ? plan.across : plan.down,
                 down_first,
                 dims.out_height,
                 dims.out_width,
                 width,
                 1,
                 int64_t(height) * width};
  plan.size = offset;
  return plan;
}

__global__ void fill_table(Table table) {
  const int32_t o = blockIdx.x * kThreads + threadIdx.x;
  if (o < table.axis.out_size)
    table.spans[o] = make_weights(table.axis, o, table.weights + size_t(o) * table.axis.taps);
}

// The 8-bit value of output pixel (y, x) in the plane at `in`.
__device__ __forceinline__ uint8_t resample(const Pass& pass, const uint8_t* in, int y, int x) {
  const int o = pass.rows ? x : y;
  const Span span = pass.table.spans[o];
  const int32_t* weights = pass.table.weights + size_t(o) * pass.table.axis.taps;
  const int64_t step = pass.rows ? pass.column_step : pass.row_step;
  in += (pass.rows ? y * pass.row_step : x * pass.column_step) + span.first * step;
  int32_t sum = 1 << (kWeightBits - 1);
  for (int32_t i = 0; i < span.count; ++i) sum += weights[i] * in[i * step];
  return round_to_pixel(sum);
}

__global__ void first_pass(Pass pass, const uint8_t* in, uint8_t* out) {
  const int x = blockIdx.x * kThreads + threadIdx.x, y = blockIdx.y;
  if (x >= pass.width) return;
  const size_t plane = size_t(pass.height) * pass.width, pixel = size_t(y) * pass.width + x;
  for (int c = 0; c < 3; ++c) out[c * plane + pixel] = resample(pass, in + c * pass.plane_step, y, x);
}

struct Normalization {
  float mean[3], std[3];
};

template <class T>
__global__ void second_pass(Pass pass, Normalization normalization, const uint8_t* in, T* out) {
  const int x = blockIdx.x * kThreads + threadIdx.x, y = blockIdx.y;
  if (x >= pass.width) return;
  const size_t plane = size_t(pass.height) * pass.width, pixel = size_t(y) * pass.width + x;
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    const float value = resample(pass, in + c * pass.plane_step, y, x) / 255.0f;
    out[c * plane + pixel] = from_float<T>((value - normalization.mean[c]) / normalization.std[c]);
  }
}

int run(const florence_resize_dims& dims, const uint8_t* image, void* out, void* workspace, void* stream) {
  const Plan plan = make_plan(dims, static_cast<char*>(workspace));
  for (const Table& table : {plan.across, plan.down}) {
    FLORENCE_TRY(launch(fill_table, dim3(ceil_div(table.axis.out_size, kThreads)), kThreads, stream, table));
  }
  auto grid = [](const Pass& pass) { return dim3(ceil_div(pass.width, kThreads), pass.height); };
  const uint8_t* red = image + (dims.channel_order == FLORENCE_BGR ? 2 : 0);
  FLORENCE_TRY(launch(first_pass, grid(plan.first), kThreads, stream, plan.first, red, plan.between));
  const Normalization normalization{{dims.mean[0], dims.mean[1], dims.mean[2]},
                                    {dims.std[0], dims.std[1], dims.std[2]}};
  return with_dtype(dims.dtype, [&](auto element) {
    using T = decltype(element);
    return launch(second_pass<T>, grid(plan.second), kThreads, stream, plan.second, normalization,
                  static_cast<const uint8_t*>(plan.between), static_cast<T*>(out));
  });
}

}  // namespace
}  // namespace florence::device

size_t florence_resize_normalize_workspace(const florence_resize_dims* dims) {
  return florence::check(dims) == FLORENCE_OK ? florence::device::make_plan(*dims, nullptr).size : 0;
}

int florence_resize_normalize(const florence_resize_dims* dims, const uint8_t* image, void* out, void* workspace,
                              void* stream) {
  FLORENCE_TRY(florence::check(dims));
  FLORENCE_REQUIRE("resize_normalize", image, out, workspace);
  FLORENCE_TRY(florence::check_alignment("resize_normalize", {out, workspace}));
  return florence::device::run(*dims, image, out, workspace, stream);
}
