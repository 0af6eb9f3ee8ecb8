// Two launches. A block of the first takes one image, head and chunk of source positions, reads their K and V once and
// computes every beam of the image against them; the second merges the chunks in order. The chunk size is fixed.
#include "attend.cuh"

namespace florence::device {
namespace {

constexpr int kWarps = 4;
constexpr int kChunk = 128;  // source positions of one block

struct Shape {
  int beams, source_length, row_stride, chunks;
  float scale;  // with log2(e)
};

// Result of one chunk for one query: kDim weighted sums, then the largest score and the sum of weights.
template <int kDim>
constexpr int kRecord = kDim + 2;

__device__ __forceinline__ bool is_done(const int32_t* image_done, int image) {
  return image_done != nullptr && image_done[image] != 0;
}

// kBeams is beams rounded up: the surplus queries are zero and their results are not written.
template <class T, int kDim, int kBeams>
__global__ void __launch_bounds__(kWarps* kWarp)
    attend_chunk(Shape shape, const T* q, const T* k, const T* v, const int32_t* lengths, const int32_t* image_done,
                 float* records) {
  using G = Groups<T, kDim, kWarps>;
  __shared__ typename G::Table table;
  __shared__ __align__(16) float queries[kBeams][kDim];
  const int chunk = blockIdx.x, head = blockIdx.y, image = blockIdx.z, heads = gridDim.y;
  if (is_done(image_done, image)) return;
  for (int i = threadIdx.x; i < kBeams * kDim; i += kWarps * kWarp) {
    const int beam = i / kDim;
    const int64_t from = int64_t(image * shape.beams + beam) * shape.row_stride + head * kDim + i % kDim;
    queries[beam][i % kDim] = beam < shape.beams ? to_float(q[from]) * shape.scale : 0.0f;
  }
  __syncthreads();

  const int valid = lengths == nullptr || lengths[image] > shape.source_length ? shape.source_length : lengths[image];
  const int begin = chunk * kChunk, end = begin + kChunk < valid ? begin + kChunk : valid;
  const int64_t source = (int64_t(image) * heads + head) * shape.source_length * kDim + G::dimension();
  Partial<T> partials[kBeams];
  for (int base = begin; base < end; base += G::kCount) {
    const int s = base + G::group();
    const int64_t at = source + int64_t(s < end ? s : begin) * kDim;
    float key[kVector<T>], value[kVector<T>];
    load_vector(k + at, key);
    load_vector(v + at, value);
#pragma unroll
    for (int beam = 0; beam < kBeams; ++beam) {
      float query[kVector<T>];
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i) query[i] = queries[beam][G::dimension() + i];
      const float score = G::dot(query, key);
      if (s < end) partials[beam].add(score, value);
    }
  }

#pragma unroll
  for (int beam = 0; beam < kBeams; ++beam) {
    if (beam >= shape.beams) break;
    G::store(table, partials[beam]);
    __syncthreads();
    const int64_t query = (int64_t(image) * heads + head) * shape.beams + beam;
    float* record = records + (query * shape.chunks + chunk) * kRecord<kDim>;
    for (int d = threadIdx.x; d < kDim; d += kWarps * kWarp) {
      float largest, sum;
      G::merge(table, d, &largest, &sum, record + d);
      if (d == 0) {
        record[kDim] = largest;
        record[kDim + 1] = sum;
      }
    }
    __syncthreads();
  }
}

template <class T, int kDim>
__global__ void __launch_bounds__(kDim)
    merge_chunks(Shape shape, const float* records, const int32_t* image_done, T* out) {
  const int beam = blockIdx.x, head = blockIdx.y, image = blockIdx.z, heads = gridDim.y, d = threadIdx.x;
  if (is_done(image_done, image)) return;
  const int64_t query = (int64_t(image) * heads + head) * shape.beams + beam;
  const float* record = records + query * shape.chunks * kRecord<kDim>;
  float largest = -INFINITY, sum = 0, value = 0;
  for (int c = 0; c < shape.chunks; ++c) largest = fmaxf(largest, record[c * kRecord<kDim> + kDim]);
  for (int c = 0; c < shape.chunks && largest > -INFINITY; ++c) {
    const float weight = exp2f(record[c * kRecord<kDim> + kDim] - largest);
    sum += weight * record[c * kRecord<kDim> + kDim + 1];
    value += weight * record[c * kRecord<kDim> + d];
  }
  const int64_t row = int64_t(image) * shape.beams + beam;
  out[(row * heads + head) * kDim + d] = from_float<T>(sum > 0 ? value / sum : 0.0f);
}

Shape shape_of(const florence_cross_dims& dims) {
  return {dims.beams, dims.source_length, dims.row_stride, int(ceil_div(dims.source_length, kChunk)),
          dims.scale * kLog2e};
}

template <class T, int kDim>
auto attend_kernel(int beams) {
  return beams == 1 ? attend_chunk<T, kDim, 1> : beams <= 4 ? attend_chunk<T, kDim, 4> : attend_chunk<T, kDim, 8>;
}

struct Arguments {
  const void *q, *k, *v;
  const int32_t *lengths, *image_done;
  void* out;
  float* records;
};

template <class T, int kDim>
int run(const florence_cross_dims& dims, const Arguments& given, void* stream) {
  const Shape shape = shape_of(dims);
  FLORENCE_TRY(launch(attend_kernel<T, kDim>(dims.beams), dim3(shape.chunks, dims.heads, dims.batch), kWarps * kWarp,
                      stream, shape, static_cast<const T*>(given.q), static_cast<const T*>(given.k),
                      static_cast<const T*>(given.v), given.lengths, given.image_done, given.records));
  return launch(merge_chunks<T, kDim>, dim3(dims.beams, dims.heads, dims.batch), kDim, stream, shape,
                static_cast<const float*>(given.records), given.image_done, static_cast<T*>(given.out));
}

}  // namespace
}  // namespace florence::device

size_t florence_decoder_cross_attention_workspace(const florence_cross_dims* dims) {
  using namespace florence::device;
  if (florence::check(dims) != FLORENCE_OK) return 0;
  const size_t queries = size_t(dims->batch) * dims->heads * dims->beams;
  return queries * shape_of(*dims).chunks * (dims->head_dim + 2) * sizeof(float);
}

int florence_decoder_cross_attention(const florence_cross_dims* dims, const void* q, const void* k, const void* v,
                                     const int32_t* lengths, const int32_t* image_done, void* out, void* workspace,
                                     void* stream) {
  using namespace florence::device;
  const char* op = "decoder_cross_attention";
  FLORENCE_TRY(florence::check(dims));
  FLORENCE_REQUIRE(op, q, k, v, out, workspace);
  FLORENCE_TRY(florence::check_alignment(op, {q, k, v, out, workspace}));
  const Arguments given{q, k, v, lengths, image_done, out, static_cast<float*>(workspace)};
  return with_dtype(dims->dtype, [&](auto element) {
    using T = decltype(element);
    return dims->head_dim == 64 ? run<T, 64>(*dims, given, stream) : run<T, 32>(*dims, given, stream);
  });
}
