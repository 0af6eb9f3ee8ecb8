// One block per window and head. Partition and reverse are index arithmetic: token i of a window is a row of the QKV
// output, or the bias where the window sticks out of the map.
#include "tensor_cores.cuh"

namespace florence::device {
namespace {

constexpr float kScale = 0.17677669529663687f;  // 32^-0.5

struct Map {
  int height, width, channels, window;
  int rows, columns;  // windows along each side
};

// Where one block finds its tokens.
template <class T>
struct Window {
  const Map& map;
  const T *qkv, *bias;
  int first, top, left, offset;  // first: token of this image; offset: of this head inside a token

  // Index of token i of the window among all tokens of the batch, or -1 for padding.
  __device__ __forceinline__ int token(int i) const {
    const int y = top + i / map.window, x = left + i % map.window;
    return y < map.height && x < map.width ? first + y * map.width + x : -1;
  }

  // The 32 elements of q (part 0), k (1) or v (2) of a token.
  __device__ __forceinline__ const T* at(int token, int part) const {
    const T* base = token < 0 ? bias : qkv + int64_t(token) * 3 * map.channels;
    return base + part * map.channels + offset;
  }
};

template <class T>
__device__ __forceinline__ Window<T> this_window(const Map& map, const T* qkv, const T* bias) {
  const int per_image = map.rows * map.columns, image = blockIdx.x / per_image, index = blockIdx.x % per_image;
  const int top = index / map.columns * map.window, left = index % map.columns * map.window;
  return {map, qkv, bias, image * map.height * map.width, top, left, int(blockIdx.y) * kHeadDim};
}

// ---- tensor cores: 144 tokens are nine tiles of 16 queries, one per warp; keys are taken 48 at a time ----

constexpr int kTokens = kMaxWindow * kMaxWindow;
constexpr int kTensorThreads = kTokens / 16 * kWarp;
constexpr int kTensorBlocks = 2;  // per multiprocessor; three would spill on Blackwell
constexpr int kChunk = 48;
constexpr int kTiles = kChunk / 16;

// Softmax state of the 16 queries of a warp. [half] is row g or g + 8; a thread's sum covers its own columns.
struct Rows {
  float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  float values[4][4] = {};  // 16 x 32, C fragments
};

// scores = Q K^T of one chunk of keys.
template <class T>
__device__ __forceinline__ void score_keys(const uint32_t (&q)[2][4], const uint16_t* keys, int lane,
                                           float (&scores)[2 * kTiles][4]) {
#pragma unroll
  for (int n = 0; n < 2 * kTiles; ++n) {
    uint32_t k[4];  // keys 8n..8n+7, 32 dimensions
    load_matrices(k, keys + (8 * n + lane % 8) * kTileRow + lane / 8 * 8);
#pragma unroll
    for (float& score : scores[n]) score = 0;
    multiply<T>(scores[n], q[0], k[0], k[1]);
    multiply<T>(scores[n], q[1], k[2], k[3]);
  }
}

// Weights of one chunk relative to the largest score so far; what was summed before shrinks to the same base. A C
// fragment of the scores, packed to 16 bits, is the A fragment that the product with V needs.
template <class T>
__device__ __forceinline__ void weigh(const float (&scores)[2 * kTiles][4], Rows& rows,
                                      uint32_t (&weights)[kTiles][4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float largest = -INFINITY;
#pragma unroll
    for (int n = 0; n < 2 * kTiles; ++n) {
      largest = fmaxf(largest, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
    }
    largest = fmaxf(rows.largest[half], max_over(largest, 4) * (kScale * kLog2e));
    const float shrink = exp2f(rows.largest[half] - largest);
    rows.largest[half] = largest;
    rows.sum[half] *= shrink;
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      rows.values[n][2 * half] *= shrink;
      rows.values[n][2 * half + 1] *= shrink;
    }
#pragma unroll
    for (int n = 0; n < 2 * kTiles; ++n) {
      const float even = exp2f(scores[n][2 * half] * (kScale * kLog2e) - largest);
      const float odd = exp2f(scores[n][2 * half + 1] * (kScale * kLog2e) - largest);
      rows.sum[half] += even + odd;
      weights[n / 2][n % 2 * 2 + half] = pack<T>(even, odd);
    }
  }
}

template <class T>
__device__ __forceinline__ void add_values(const uint32_t (&weights)[kTiles][4], const uint16_t* values, int lane,
                                           Rows& rows) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      uint32_t v[4];  // tokens 16 tile.., dimensions 16 pair..
      const int row = 16 * tile + lane / 8 % 2 * 8 + lane % 8;
      load_matrices_transposed(v, values + row * kTileRow + pair * 16 + lane / 16 * 8);
      multiply<T>(rows.values[2 * pair], weights[tile], v[0], v[1]);
      multiply<T>(rows.values[2 * pair + 1], weights[tile], v[2], v[3]);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kTensorThreads, kTensorBlocks)
    attend_with_tensor_cores(Map map, const T* qkv, const T* bias, T* out) {
  __shared__ __align__(16) uint16_t keys[kTokens * kTileRow];
  __shared__ __align__(16) uint16_t values[kTokens * kTileRow];
  const Window<T> window = this_window(map, qkv, bias);
  for (int chunk = threadIdx.x; chunk < kTokens * 4; chunk += kTensorThreads) {
    const int i = chunk / 4, part = chunk % 4 * 8, token = window.token(i);
    *reinterpret_cast<uint4*>(keys + i * kTileRow + part) = *reinterpret_cast<const uint4*>(window.at(token, 1) + part);
    *reinterpret_cast<uint4*>(values + i * kTileRow + part) =
        *reinterpret_cast<const uint4*>(window.at(token, 2) + part);
  }
  const int lane = threadIdx.x % kWarp, row = threadIdx.x / kWarp * 16 + lane / 4;
  const int tokens[2] = {window.token(row), window.token(row + 8)};
  uint32_t q[2][4];
#pragma unroll
  for (int step = 0; step < 2; ++step)
    load_a(q[step], window.at(tokens[0], 0), window.at(tokens[1], 0), 16 * step, lane);
  __syncthreads();

  Rows rows;
#pragma unroll 1
  for (int first = 0; first < kTokens; first += kChunk) {
    float scores[2 * kTiles][4];
    uint32_t weights[kTiles][4];
    score_keys<T>(q, keys + first * kTileRow, lane, scores);
    weigh<T>(scores, rows, weights);
    add_values<T>(weights, values + first * kTileRow, lane, rows);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float inverse = 1.0f / sum_over(rows.sum[half], 4);
    if (tokens[half] < 0) continue;
    T* to = out + int64_t(tokens[half]) * map.channels + window.offset + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      *reinterpret_cast<uint32_t*>(to + 8 * n) =
          pack<T>(rows.values[n][2 * half] * inverse, rows.values[n][2 * half + 1] * inverse);
    }
  }
}

// ---- portable: any window up to 12, any dtype; one warp per query, fp32 arithmetic ----

constexpr int kPortableWarps = 8;
constexpr int kKeyRow = kHeadDim + 1;  // neighbouring lanes read neighbouring keys from different banks
constexpr int kKeysPerLane = (kTokens + kWarp - 1) / kWarp;

template <class T>
__global__ void __launch_bounds__(kPortableWarps* kWarp) attend_portably(Map map, const T* qkv, const T* bias, T* out) {
  __shared__ float keys[kTokens * kKeyRow];
  __shared__ float values[kTokens * kHeadDim];
  __shared__ float queries[kPortableWarps][kHeadDim];
  __shared__ float weights[kPortableWarps][kTokens];
  const Window<T> window = this_window(map, qkv, bias);
  const int count = map.window * map.window, lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int i = warp; i < count; i += kPortableWarps) {
    const int token = window.token(i);
    keys[i * kKeyRow + lane] = to_float(window.at(token, 1)[lane]);
    values[i * kHeadDim + lane] = to_float(window.at(token, 2)[lane]);
  }
  __syncthreads();

  for (int i = warp; i < count; i += kPortableWarps) {
    const int token = window.token(i);
    if (token < 0) continue;
    queries[warp][lane] = to_float(window.at(token, 0)[lane]) * (kScale * kLog2e);
    __syncwarp();
    float scores[kKeysPerLane], largest = -INFINITY, sum = 0;
#pragma unroll
    for (int n = 0; n < kKeysPerLane; ++n) {
      const int key = n * kWarp + lane;
      scores[n] = key < count ? 0 : -INFINITY;
      for (int d = 0; d < kHeadDim && key < count; ++d) scores[n] += queries[warp][d] * keys[key * kKeyRow + d];
      largest = fmaxf(largest, scores[n]);
    }
    largest = max_over(largest, kWarp);
#pragma unroll
    for (int n = 0; n < kKeysPerLane; ++n) {
      const float weight = exp2f(scores[n] - largest);
      if (n * kWarp + lane < count) weights[warp][n * kWarp + lane] = weight;
      sum += weight;
    }
    const float inverse = 1.0f / sum_over(sum, kWarp);
    __syncwarp();
    float result = 0;
    for (int key = 0; key < count; ++key) result += weights[warp][key] * values[key * kHeadDim + lane];
    out[int64_t(token) * map.channels + window.offset + lane] = from_float<T>(result * inverse);
    __syncwarp();
  }
}

template <class T>
int run(const florence_window_dims& dims, bool tensor_cores, const T* qkv, const T* bias, T* out, void* stream) {
  Map map{dims.height, dims.width, dims.channels, dims.window, 0, 0};
  map.rows = int(ceil_div(dims.height, dims.window));
  map.columns = int(ceil_div(dims.width, dims.window));
  const dim3 grid(unsigned(dims.batch) * map.rows * map.columns, dims.heads);
  if constexpr (sizeof(T) == 2) {
    if (tensor_cores) return launch(attend_with_tensor_cores<T>, grid, kTensorThreads, stream, map, qkv, bias, out);
  }
  return launch(attend_portably<T>, grid, kPortableWarps * kWarp, stream, map, qkv, bias, out);
}

}  // namespace
}  // namespace florence::device

int florence_window_attention(const florence_window_dims* dims, const void* qkv, const void* bias, void* out,
                              void* stream) {
  const char* op = "window_attention";
  FLORENCE_TRY(florence::check(dims));
  FLORENCE_REQUIRE(op, qkv, out);
  if (florence::has_padding(*dims)) FLORENCE_REQUIRE("window_attention with padding", bias);
  FLORENCE_TRY(florence::check_alignment(op, {qkv, bias, out}));
  const bool suited = dims->dtype != FLORENCE_F32 && dims->window == florence::kMaxWindow;
  bool tensor_cores = false;
  FLORENCE_TRY(florence::device::choose_tensor_cores(op, dims->path, suited, &tensor_cores));
  return florence::device::with_dtype(dims->dtype, [&](auto element) {
    using T = decltype(element);
    return florence::device::run(*dims, tensor_cores, static_cast<const T*>(qkv), static_cast<const T*>(bias),
                                 static_cast<T*>(out), stream);
  });
}
