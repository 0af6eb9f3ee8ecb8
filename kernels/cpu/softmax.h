// Attention of one query over a list of keys, in double: the arithmetic that three of the twins share.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "numbers.h"

namespace florence::cpu {

// Turns scores into weights that sum to 1; an empty list stays empty.
inline void softmax(std::vector<double>& scores) {
  double largest = -std::numeric_limits<double>::infinity(), sum = 0;
  for (double score : scores) largest = std::max(largest, score);
  for (double& score : scores) sum += score = std::exp(score - largest);
  for (double& score : scores) score /= sum;
}

// out = sum over i of softmax(scale * query . keys[i]) * values[i]; zero where there is no key.
template <class T>
void attend(const T* query, const std::vector<const T*>& keys, const std::vector<const T*>& values, int head_dim,
            double scale, T* out) {
  std::vector<double> weights(keys.size());
  for (size_t i = 0; i < keys.size(); ++i) {
    double dot = 0;
    for (int d = 0; d < head_dim; ++d) dot += double(to_float(query[d])) * to_float(keys[i][d]);
    weights[i] = scale * dot;
  }
  softmax(weights);
  for (int d = 0; d < head_dim; ++d) {
    double sum = 0;
    for (size_t i = 0; i < keys.size(); ++i) sum += weights[i] * to_float(values[i][d]);
    out[d] = from_float<T>(float(sum));
  }
}

}  // namespace florence::cpu
