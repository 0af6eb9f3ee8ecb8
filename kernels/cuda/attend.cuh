// Online softmax of a few queries over keys that are shared out among groups of lanes: what self- and cross-attention
// of the decoder have in common. A group of head_dim / kVector lanes holds one key at a time, kVector dimensions per
// lane.
#pragma once

#include "device.cuh"

namespace florence::device {

// Running softmax state of one query in one group.
template <class T>
struct Partial {
  float largest = -INFINITY, sum = 0;
  float values[kVector<T>] = {};

  // Adds a key whose score, in units of log2, is known; scores are finite.
  __device__ __forceinline__ void add(float score, const float (&value)[kVector<T>]) {
    const float larger = fmaxf(largest, score), shrink = exp2f(largest - larger), weight = exp2f(score - larger);
    largest = larger;
    sum = sum * shrink + weight;
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) values[i] = values[i] * shrink + weight * value[i];
  }
};

// How a block of kWarps warps is shared out.
template <class T, int kDim, int kWarps>
struct Groups {
  static constexpr int kLanes = kDim / kVector<T>;  // of one group
  static constexpr int kPerWarp = kWarp / kLanes;
  static constexpr int kCount = kWarps * kPerWarp;

  // Partial results of one query from every group, and the block's result.
  struct Table {
    float largest[kCount], sum[kCount];
    float values[kCount][kDim];
  };

  __device__ static __forceinline__ int group() { return threadIdx.x / kLanes; }
  __device__ static __forceinline__ int dimension() { return threadIdx.x % kLanes * kVector<T>; }

  // q . k over the lanes of a group.
  __device__ static __forceinline__ float dot(const float (&q)[kVector<T>], const float (&k)[kVector<T>]) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) sum += q[i] * k[i];
    return sum_over(sum, kLanes);
  }

  __device__ static __forceinline__ void store(Table& table, const Partial<T>& partial) {
    if (dimension() == 0) {
      table.largest[group()] = partial.largest;
      table.sum[group()] = partial.sum;
    }
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) table.values[group()][dimension() + i] = partial.values[i];
  }

  // Merges the groups in their order: largest score, sum of weights, and the weighted sum of values[d]. Without any key
  // the sums are 0 and the largest score is -infinity.
  __device__ static __forceinline__ void merge(const Table& table, int d, float* largest, float* sum, float* value) {
    *largest = -INFINITY;
    *sum = *value = 0;
    for (int g = 0; g < kCount; ++g) *largest = fmaxf(*largest, table.largest[g]);
    if (*largest == -INFINITY) return;
    for (int g = 0; g < kCount; ++g) {
      const float weight = exp2f(table.largest[g] - *largest);
      *sum += weight * table.sum[g];
      *value += weight * table.values[g][d];
    }
  }
};

}  // namespace florence::device
