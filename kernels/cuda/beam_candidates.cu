// First kernel of a beam step. One block per row and vocabulary part: its share of the log-softmax, the bans, and its
// exact best 2 * beams tokens by (logit descending, token ascending).
#include "beam.cuh"

namespace florence::device {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

struct Best {
  float value;
  int index;  // inside the part; kNoCandidate: nothing left
};

__device__ __forceinline__ Best better(const Best& a, const Best& b) {
  return b.value > a.value || (b.value == a.value && b.index < a.index) ? b : a;
}

__device__ __forceinline__ Best best_of_warp(Best best) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    best = better(best, {__shfl_xor_sync(kWholeWarp, best.value, mask), __shfl_xor_sync(kWholeWarp, best.index, mask)});
  }
  return best;
}

// Every thread gets the best of the block. `table` is free again after the next barrier.
__device__ __forceinline__ Best best_of_block(Best best, Best* table) {
  best = best_of_warp(best);
  if (threadIdx.x % kWarp == 0) table[threadIdx.x / kWarp] = best;
  __syncthreads();
  best = table[0];
  for (int w = 1; w < kWarps; ++w) best = better(best, table[w]);
  return best;
}

__device__ __forceinline__ float sum_of_block(float sum, float* table) {
  sum = sum_over(sum, kWarp);
  if (threadIdx.x % kWarp == 0) table[threadIdx.x / kWarp] = sum;
  __syncthreads();
  sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += table[w];
  return sum;
}

// The best of this thread's share; what was taken is NaN, which compares false.
__device__ __forceinline__ Best best_of_thread(const float* values, int count) {
  Best best{-INFINITY, kNoCandidate};
  for (int i = threadIdx.x; i < count; i += kThreads) {
    if (values[i] > best.value || (best.index == kNoCandidate && values[i] == -INFINITY)) best = {values[i], i};
  }
  return best;
}

// Applies the logits processors to the part that begins at token `begin`; `allowed` is this row's, or NULL.
__device__ __forceinline__ void ban(const florence_beam_dims& dims, const int32_t* tokens, const uint8_t* allowed,
                                    int length, int begin, int count, float* values) {
  if (allowed != nullptr) {
    for (int i = threadIdx.x; i < count; i += kThreads) {
      if (!is_allowed(allowed, begin + i)) values[i] = -INFINITY;
    }
    __syncthreads();
  }
  auto ban_token = [&](int token) {
    if (token >= begin && token < begin + count) values[token - begin] = -INFINITY;
  };
  for (int start = threadIdx.x; start < ngram_count(dims, length); start += kThreads) {
    ban_token(ngram_ban(dims, tokens, length, start));
  }
  if (threadIdx.x == 0 && eos_is_banned(dims, length)) ban_token(dims.eos_token);
  const int forced = forced_token(dims, length);
  if (forced == kNoToken) return;
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += kThreads) values[i] = begin + i == forced ? 0.0f : -INFINITY;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    find_candidates(florence_beam_dims dims, florence_beam_state state, const T* logits, const uint8_t* allowed,
                    Candidates candidates) {
  __shared__ float values[kPart];
  __shared__ Best best_table[2][kWarps];
  __shared__ float sum_table[kWarps];
  const int part = blockIdx.x, row = blockIdx.y;
  if (state.image_done[row / dims.beams]) return;
  const int begin = part * kPart, count = dims.vocab - begin < kPart ? dims.vocab - begin : kPart;
  const int length = *state.position + 1;
  for (int i = threadIdx.x; i < count; i += kThreads) {
    const float value = to_float(logits[int64_t(row) * dims.vocab + begin + i]);
    values[i] = value == value ? fminf(value, 3.402823466e38f) : -INFINITY;
  }
  const float largest = best_of_block(best_of_thread(values, count), best_table[0]).value;
  float sum = 0;
  for (int i = threadIdx.x; i < count && largest > -INFINITY; i += kThreads) sum += expf(values[i] - largest);
  sum = sum_of_block(sum, sum_table);
  ban(dims, state.running_tokens + int64_t(row) * dims.capacity,
      allowed == nullptr ? nullptr : allowed + row * allowed_bytes(dims), length, begin, count, values);
  __syncthreads();

  const int64_t entry = int64_t(row) * candidates.parts + part;
  if (threadIdx.x == 0) {
    candidates.largest[entry] = largest;
    candidates.sums[entry] = sum;
  }
  Best own = best_of_thread(values, count);
  for (int rank = 0; rank < candidates.kept; ++rank) {
    // Two tables alternate, so that one barrier a round is enough.
    const Best best = best_of_block(own, best_table[rank % 2]);
    const bool found = best.index != kNoCandidate;
    if (threadIdx.x == 0) {
      candidates.logits[entry * candidates.kept + rank] = best.value;
      candidates.tokens[entry * candidates.kept + rank] = found ? begin + best.index : kNoCandidate;
    }
    if (found && best.index % kThreads == int(threadIdx.x)) {
      values[best.index] = NAN;
      own = best_of_thread(values, count);
    }
  }
}

}  // namespace

int launch_candidates(const florence_beam_dims& dims, const florence_beam_state& state, const void* logits,
                      const uint8_t* allowed, const Candidates& candidates, void* stream) {
  return with_dtype(dims.dtype, [&](auto element) {
    using T = decltype(element);
    return launch(find_candidates<T>, dim3(candidates.parts, dims.batch * dims.beams), kThreads, stream, dims, state,
                  static_cast<const T*>(logits), allowed, candidates);
  });
}

}  // namespace florence::device
