// One block per beam and head. The cache is only read before `position` and only written at it, in the beam's own slot,
// so blocks do not disturb each other.
#include "attend.cuh"

namespace florence::device {
namespace {

constexpr int kWarps = 8;

template <class T>
struct Inputs {
  const T *q, *k, *v;
  T *k_cache, *v_cache;
  const uint8_t* indirection;
  const int32_t *position, *image_done;
};

struct Shape {
  int beams, max_length, row_stride;
  float scale;  // with log2(e)
  bool append;
};

// The position to work at, or -1 if this row has nothing to do.
template <class T>
__device__ __forceinline__ int this_position(const Shape& shape, const Inputs<T>& inputs, int row) {
  const int position = *inputs.position;
  const bool done = inputs.image_done != nullptr && inputs.image_done[row / shape.beams] != 0;
  return done || position < 0 || position >= shape.max_length ? -1 : position;
}

// First element of a row's cache for this block's head.
template <int kDim>
__device__ __forceinline__ int64_t cache_offset(const Shape& shape, int row) {
  return (int64_t(row) * gridDim.x + blockIdx.x) * shape.max_length * kDim;
}

template <class T, int kDim>
__device__ __forceinline__ void append(const Shape& shape, const Inputs<T>& inputs, int row, int position) {
  const int element = threadIdx.x * kVector<T>;
  if (element >= kDim) return;
  const int64_t from = int64_t(row) * shape.row_stride + blockIdx.x * kDim + element;
  const int64_t to = cache_offset<kDim>(shape, row) + int64_t(position) * kDim + element;
  *reinterpret_cast<uint4*>(inputs.k_cache + to) = *reinterpret_cast<const uint4*>(inputs.k + from);
  *reinterpret_cast<uint4*>(inputs.v_cache + to) = *reinterpret_cast<const uint4*>(inputs.v + from);
}

template <class T, int kDim>
__global__ void __launch_bounds__(kWarps* kWarp) self_attention(Shape shape, Inputs<T> inputs, T* out) {
  using G = Groups<T, kDim, kWarps>;
  __shared__ typename G::Table table;
  const int row = blockIdx.y, position = this_position(shape, inputs, row);
  if (position < 0) return;
  const int64_t input = int64_t(row) * shape.row_stride + blockIdx.x * kDim;
  const int first_slot = row / shape.beams * shape.beams;
  const uint8_t* slots = inputs.indirection + int64_t(row) * shape.max_length;
  float q[kVector<T>];
  load_vector(inputs.q + input + G::dimension(), q);
#pragma unroll
  for (float& element : q) element *= shape.scale;

  Partial<T> partial;
  for (int base = 0; base <= position; base += G::kCount) {
    const int t = base + G::group();
    const T *key = inputs.k + input, *value = inputs.v + input;
    if (t < position) {
      const int slot = first_slot + (slots[t] < shape.beams ? slots[t] : shape.beams - 1);
      const int64_t offset = cache_offset<kDim>(shape, slot) + int64_t(t) * kDim;
      key = inputs.k_cache + offset;
      value = inputs.v_cache + offset;
    }
    float k[kVector<T>], v[kVector<T>];
    load_vector(key + G::dimension(), k);
    load_vector(value + G::dimension(), v);
    const float score = G::dot(q, k);
    if (t <= position) partial.add(score, v);
  }
  G::store(table, partial);
  if (shape.append) append<T, kDim>(shape, inputs, row, position);
  __syncthreads();
  for (int d = threadIdx.x; d < kDim; d += kWarps * kWarp) {
    float largest, sum, value;
    G::merge(table, d, &largest, &sum, &value);
    out[(int64_t(row) * gridDim.x + blockIdx.x) * kDim + d] = from_float<T>(value / sum);
  }
}

template <class T, int kDim>
__global__ void append_only(Shape shape, Inputs<T> inputs) {
  const int row = blockIdx.y, position = this_position(shape, inputs, row);
  if (position >= 0) append<T, kDim>(shape, inputs, row, position);
}

Shape shape_of(const florence_self_dims& dims) {
  return {dims.beams, dims.max_length, dims.row_stride, dims.scale * kLog2e, dims.append != 0};
}

// Calls f with the element type and, as an integral constant, the head dimension.
template <class F>
int with_shape(const florence_self_dims& dims, F f) {
  return with_dtype(dims.dtype, [&](auto element) {
    if (dims.head_dim == 64) return f(element, std::integral_constant<int, 64>{});
    return f(element, std::integral_constant<int, 32>{});
  });
}

}  // namespace
}  // namespace florence::device

int florence_decoder_self_attention(const florence_self_dims* dims, const void* q, const void* k, const void* v,
                                    void* k_cache, void* v_cache, const uint8_t* indirection, const int32_t* position,
                                    const int32_t* image_done, void* out, void* stream) {
  using namespace florence::device;
  const char* op = "decoder_self_attention";
  FLORENCE_TRY(florence::check(dims));
  FLORENCE_REQUIRE(op, q, k, v, k_cache, v_cache, indirection, position, out);
  FLORENCE_TRY(florence::check_alignment(op, {q, k, v, k_cache, v_cache, out}));
  return with_shape(*dims, [&](auto element, auto head_dim) {
    using T = decltype(element);
    const Inputs<T> inputs{static_cast<const T*>(q),
                           static_cast<const T*>(k),
                           static_cast<const T*>(v),
                           static_cast<T*>(k_cache),
                           static_cast<T*>(v_cache),
                           indirection,
                           position,
                           image_done};
    return launch(self_attention<T, decltype(head_dim)::value>, dim3(dims->heads, dims->batch * dims->beams),
                  kWarps * kWarp, stream, shape_of(*dims), inputs, static_cast<T*>(out));
  });
}

int florence_kv_append(const florence_self_dims* dims, const void* k, const void* v, void* k_cache, void* v_cache,
                       const int32_t* position, const int32_t* image_done, void* stream) {
  using namespace florence::device;
  const char* op = "kv_append";
  FLORENCE_TRY(florence::check(dims));
  FLORENCE_REQUIRE(op, k, v, k_cache, v_cache, position);
  FLORENCE_TRY(florence::check_alignment(op, {k, v, k_cache, v_cache}));
  return with_shape(*dims, [&](auto element, auto head_dim) {
    using T = decltype(element);
    const Inputs<T> inputs{nullptr,
                           static_cast<const T*>(k),
                           static_cast<const T*>(v),
                           static_cast<T*>(k_cache),
                           static_cast<T*>(v_cache),
                           nullptr,
                           position,
                           image_done};
    return launch(append_only<T, decltype(head_dim)::value>, dim3(dims->heads, dims->batch * dims->beams), kWarp,
                  stream, shape_of(*dims), inputs);
  });
}
