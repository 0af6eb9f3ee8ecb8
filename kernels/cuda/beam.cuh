// The workspace that hands the candidates of every beam and vocabulary part from the first beam kernel to the second.
#pragma once

#include "beam_rules.h"
#include "device.cuh"

namespace florence::device {

constexpr int kPart = 8192;  // logits that one block holds in shared memory
constexpr int kMaxParts = kMaxVocab / kPart;
constexpr int kMaxKept = 2 * FLORENCE_MAX_BEAMS;
constexpr int kNoCandidate = 0x7fffffff;  // token of an entry that a part smaller than 2 * beams leaves empty

// Of each row (image, beam) and part: the pieces of the log-softmax, and the best 2 * beams tokens in order.
struct Candidates {
  int parts, kept;
  float* largest;   // [rows, parts]
  float* sums;      // [rows, parts] of exp(logit - largest)
  float* logits;    // [rows, parts, kept] after the logits processors
  int32_t* tokens;  // [rows, parts, kept]
};

inline Candidates candidates_of(const florence_beam_dims& dims, void* workspace) {
  Candidates candidates{int(ceil_div(dims.vocab, kPart)), 2 * dims.beams, nullptr, nullptr, nullptr, nullptr};
  const size_t parts = size_t(dims.batch) * dims.beams * candidates.parts;
  candidates.largest = static_cast<float*>(workspace);
  candidates.sums = candidates.largest + parts;
  candidates.logits = candidates.sums + parts;
  candidates.tokens = reinterpret_cast<int32_t*>(candidates.logits + parts * candidates.kept);
  return candidates;
}

// The first kernel of florence_beam_step.
int launch_candidates(const florence_beam_dims& dims, const florence_beam_state& state, const void* logits,
                      const uint8_t* allowed, const Candidates& candidates, void* stream);

}  // namespace florence::device
