// Three launches: each block of the first sums Q^T K over one chunk of tokens; the second adds the chunks in order and
// takes the softmax; the third multiplies V. The chunk size is fixed, so the result does not depend on the device.
#include "tensor_cores.cuh"

namespace florence::device {
namespace {

constexpr int kSide = kHeadDim;  // of the attention matrix
constexpr int kMatrix = kSide * kSide;
constexpr int kGramTokens = 512;   // summed by one block of the first kernel
constexpr int kApplyTokens = 256;  // multiplied by one block of the third
constexpr int kTensorWarps = 4;
constexpr int kPortableThreads = 256;
constexpr int kTileTokens = 32;           // that a block of the portable kernel takes at a time
constexpr int kStep = kTensorWarps * 16;  // tokens that a block on tensor cores takes at a time

struct Shape {
  int tokens, channels, splits;
  float scale;  // tokens^-0.5
};

// First element of q of this block's image and group.
template <class T>
__device__ __forceinline__ const T* this_group(const Shape& shape, const T* qkv) {
  return qkv + int64_t(blockIdx.z) * shape.tokens * 3 * shape.channels + blockIdx.y * kSide;
}

__device__ __forceinline__ int64_t matrix_index() { return int64_t(blockIdx.z) * gridDim.y + blockIdx.y; }

// ---- first kernel: partial sums of Q^T K, [image, group, split, 32, 32] fp32 ----

// Copies 16 tokens of 32 elements into a tile; tokens from `end` on become zeros, which add nothing to the sums.
template <class T>
__device__ __forceinline__ void fill_tile(const Shape& shape, const T* from, int first, int end, int lane,
                                          uint16_t* tile) {
#pragma unroll
  for (int chunk = lane; chunk < 64; chunk += kWarp) {
    const int token = first + chunk / 4, part = chunk % 4 * 8;
    uint4 data{0, 0, 0, 0};
    if (token < end) data = *reinterpret_cast<const uint4*>(from + int64_t(token) * 3 * shape.channels + part);
    *reinterpret_cast<uint4*>(tile + chunk / 4 * kTileRow + part) = data;
  }
}

// sums[m][n] += the 16 x 8 block (m, n) of Q^T K over the 16 tokens of the two tiles.
template <class T>
__device__ __forceinline__ void add_tile(const uint16_t* q, const uint16_t* k, int lane, float (&sums)[2][4][4]) {
  uint32_t a[2][4], b[2][4];
  const int matrix = lane / 8, row = lane % 8;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    load_matrices_transposed(a[half], q + (matrix / 2 * 8 + row) * kTileRow + half * 16 + matrix % 2 * 8);
    load_matrices_transposed(b[half], k + (matrix % 2 * 8 + row) * kTileRow + half * 16 + matrix / 2 * 8);
  }
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int n = 0; n < 4; ++n) multiply<T>(sums[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
  }
}

template <class T>
__global__ void __launch_bounds__(kTensorWarps* kWarp)
    gram_with_tensor_cores(Shape shape, const T* qkv, float* partial) {
  __shared__ __align__(16) uint16_t tiles[kTensorWarps][2][16 * kTileRow];
  __shared__ float sums_of[kTensorWarps][kMatrix];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int begin = blockIdx.x * kGramTokens;
  const int end = begin + kGramTokens < shape.tokens ? begin + kGramTokens : shape.tokens;
  const T* q = this_group(shape, qkv);
  float sums[2][4][4] = {};
  for (int first = begin + warp * 16; first < end; first += kStep) {
    fill_tile(shape, q, first, end, lane, tiles[warp][0]);
    fill_tile(shape, q + shape.channels, first, end, lane, tiles[warp][1]);
    __syncwarp();
    add_tile<T>(tiles[warp][0], tiles[warp][1], lane, sums);
    __syncwarp();
  }
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int n = 0; n < 4; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = 16 * m + lane / 4 + i / 2 * 8, column = 8 * n + lane % 4 * 2 + i % 2;
        sums_of[warp][row * kSide + column] = sums[m][n][i];
      }
    }
  }
  __syncthreads();
  float* to = partial + (matrix_index() * shape.splits + blockIdx.x) * kMatrix;
  for (int i = threadIdx.x; i < kMatrix; i += kTensorWarps * kWarp) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kTensorWarps; ++w) sum += sums_of[w][i];
    to[i] = sum;
  }
}

template <class T>
__global__ void __launch_bounds__(kPortableThreads) gram_portably(Shape shape, const T* qkv, float* partial) {
  __shared__ float q_tile[kTileTokens][kSide + 1], k_tile[kTileTokens][kSide + 1];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int row = threadIdx.x / 8, column = threadIdx.x % 8 * 4;
  const int begin = blockIdx.x * kGramTokens;
  const int end = begin + kGramTokens < shape.tokens ? begin + kGramTokens : shape.tokens;
  const T* q = this_group(shape, qkv);
  float sums[4] = {};
  for (int first = begin; first < end; first += kTileTokens) {
    for (int i = warp; i < kTileTokens; i += kPortableThreads / kWarp) {
      const T* token = q + int64_t(first + i) * 3 * shape.channels + lane;
      q_tile[i][lane] = first + i < end ? to_float(token[0]) : 0.0f;
      k_tile[i][lane] = first + i < end ? to_float(token[shape.channels]) : 0.0f;
    }
    __syncthreads();
    for (int i = 0; i < kTileTokens; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[j] += q_tile[i][row] * k_tile[i][column + j];
    }
    __syncthreads();
  }
  float* to = partial + (matrix_index() * shape.splits + blockIdx.x) * kMatrix + row * kSide + column;
#pragma unroll
  for (int j = 0; j < 4; ++j) to[j] = sums[j];
}

// ---- second kernel: [image, group, 32, 32] T, each row a softmax; eight threads hold a row ----

template <class T>
__global__ void __launch_bounds__(kPortableThreads) softmax_of_sums(Shape shape, const float* partial, T* weights) {
  const int first = threadIdx.x * 4;
  const float* from = partial + matrix_index() * shape.splits * kMatrix + first;
  float sums[4] = {}, largest = -INFINITY, total = 0;
  for (int split = 0; split < shape.splits; ++split) {
    float values[4];
    load_vector(from + int64_t(split) * kMatrix, values);
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[j] += values[j];
  }
#pragma unroll
  for (float sum : sums) largest = fmaxf(largest, sum);
  largest = max_over(largest, 8);
#pragma unroll
  for (float& sum : sums) total += sum = exp2f((sum - largest) * (shape.scale * kLog2e));
  const float inverse = 1.0f / sum_over(total, 8);
  T* to = weights + matrix_index() * kMatrix + first;
#pragma unroll
  for (int j = 0; j < 4; ++j) to[j] = from_float<T>(sums[j] * inverse);
}

// ---- third kernel: out = V A^T ----

template <class T>
__global__ void __launch_bounds__(kTensorWarps* kWarp)
    apply_with_tensor_cores(Shape shape, const T* qkv, const T* weights, T* out) {
  __shared__ __align__(16) uint16_t tile[kSide * kTileRow];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const T* from = weights + matrix_index() * kMatrix;
  static_assert(kMatrix / 8 == kTensorWarps * kWarp, "each thread copies eight weights");
  *reinterpret_cast<uint4*>(tile + threadIdx.x / 4 * kTileRow + threadIdx.x % 4 * 8) =
      *reinterpret_cast<const uint4*>(from + threadIdx.x * 8);
  __syncthreads();
  uint32_t b[4][4];  // rows 8n..8n+7 of A, 32 columns
#pragma unroll
  for (int n = 0; n < 4; ++n) load_matrices(b[n], tile + (8 * n + lane % 8) * kTileRow + lane / 8 * 8);

  const T* v = this_group(shape, qkv) + 2 * shape.channels;
  T* to = out + int64_t(blockIdx.z) * shape.tokens * shape.channels + blockIdx.y * kSide + lane % 4 * 2;
  for (int step = 0; step < kApplyTokens; step += kStep) {
    const int token = blockIdx.x * kApplyTokens + step + warp * 16 + lane / 4;
    const bool inside[2] = {token < shape.tokens, token + 8 < shape.tokens};
    // A row outside the image repeats the last one inside; it is multiplied and thrown away.
    const int last = shape.tokens - 1;
    const T* row_g = v + int64_t(inside[0] ? token : last) * 3 * shape.channels;
    const T* row_g8 = v + int64_t(inside[1] ? token + 8 : last) * 3 * shape.channels;
    uint32_t a[2][4];
    float sums[4][4] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) load_a(a[half], row_g, row_g8, 16 * half, lane);
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      multiply<T>(sums[n], a[0], b[n][0], b[n][1]);
      multiply<T>(sums[n], a[1], b[n][2], b[n][3]);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (!inside[half]) continue;
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        *reinterpret_cast<uint32_t*>(to + int64_t(token + 8 * half) * shape.channels + 8 * n) =
            pack<T>(sums[n][2 * half], sums[n][2 * half + 1]);
      }
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kPortableThreads)
    apply_portably(Shape shape, const T* qkv, const T* weights, T* out) {
  __shared__ float tile[kSide][kSide + 1];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const T* from = weights + matrix_index() * kMatrix;
  for (int i = threadIdx.x; i < kMatrix; i += kPortableThreads) tile[i / kSide][i % kSide] = to_float(from[i]);
  __syncthreads();
  const T* v = this_group(shape, qkv) + 2 * shape.channels + lane;
  T* to = out + int64_t(blockIdx.z) * shape.tokens * shape.channels + blockIdx.y * kSide + lane;
  const int begin = blockIdx.x * kApplyTokens;
  const int end = begin + kApplyTokens < shape.tokens ? begin + kApplyTokens : shape.tokens;
  for (int token = begin + warp; token < end; token += kPortableThreads / kWarp) {
    const float value = to_float(v[int64_t(token) * 3 * shape.channels]);
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kSide; ++j) sum += tile[lane][j] * __shfl_sync(kWholeWarp, value, j);
    to[int64_t(token) * shape.channels] = from_float<T>(sum);
  }
}

int splits_of(const florence_channel_dims& dims) { return int(ceil_div(dims.tokens, kGramTokens)); }

size_t partial_size(const florence_channel_dims& dims) {
  return size_t(dims.batch) * dims.groups * splits_of(dims) * kMatrix * sizeof(float);
}

template <class T>
int run(const florence_channel_dims& dims, bool tensor_cores, const T* qkv, T* out, void* workspace, void* stream) {
  const Shape shape{dims.tokens, dims.channels, splits_of(dims), 1.0f / sqrtf(float(dims.tokens))};
  float* partial = static_cast<float*>(workspace);
  T* weights = reinterpret_cast<T*>(static_cast<char*>(workspace) + partial_size(dims));
  const dim3 gram(shape.splits, dims.groups, dims.batch), matrices(1, dims.groups, dims.batch);
  const dim3 apply(unsigned(ceil_div(dims.tokens, kApplyTokens)), dims.groups, dims.batch);
  auto kernels = [&](auto* first, auto* third, int threads) {
    FLORENCE_TRY(launch(first, gram, threads, stream, shape, qkv, partial));
    FLORENCE_TRY(launch(softmax_of_sums<T>, matrices, kPortableThreads, stream, shape, partial, weights));
    return launch(third, apply, threads, stream, shape, qkv, weights, out);
  };
  if constexpr (sizeof(T) == 2) {
    if (tensor_cores) return kernels(gram_with_tensor_cores<T>, apply_with_tensor_cores<T>, kTensorWarps * kWarp);
  }
  return kernels(gram_portably<T>, apply_portably<T>, kPortableThreads);
}

}  // namespace
}  // namespace florence::device

size_t florence_channel_attention_workspace(const florence_channel_dims* dims) {
  using namespace florence::device;
  if (florence::check(dims) != FLORENCE_OK) return 0;
  return partial_size(*dims) + size_t(dims->batch) * dims->groups * kMatrix * sizeof(float);
}

int florence_channel_attention(const florence_channel_dims* dims, const void* qkv, void* out, void* workspace,
                               void* stream) {
  const char* op = "channel_attention";
  FLORENCE_TRY(florence::check(dims));
  FLORENCE_REQUIRE(op, qkv, out, workspace);
  FLORENCE_TRY(florence::check_alignment(op, {qkv, out, workspace}));
  bool tensor_cores = false;
  FLORENCE_TRY(florence::device::choose_tensor_cores(op, dims->path, dims->dtype != FLORENCE_F32, &tensor_cores));
  return florence::device::with_dtype(dims->dtype, [&](auto element) {
    using T = decltype(element);
    return florence::device::run(*dims, tensor_cores, static_cast<const T*>(qkv), static_cast<T*>(out), workspace,
                                 stream);
  });
}
