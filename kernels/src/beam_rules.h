// The rules of the beam search that twin and kernel must share to the letter: order of candidates, forced tokens,
// n-gram bans. Compiled for the host and for the device.
#pragma once

#include "florence_kernels.h"

#ifdef __CUDACC__
#define FLORENCE_HOST_DEVICE __host__ __device__
#else
#define FLORENCE_HOST_DEVICE
#endif

namespace florence {

constexpr float kEmptyScore = -1e9f;  // transformers' stand-in for minus infinity in beam scores
constexpr int kPromptLength = 1;      // the decoder prompt is the start token
constexpr int kNoToken = -1;

struct Candidate {
  float score;    // log-probability of the token plus the score of its beam
  float logprob;  // of the token, after the logits processors
  float logit;    // what the token was ranked by inside its beam, after the logits processors
  int32_t beam, token;
};

// A total order: two different candidates never tie, so every selection has one answer.
FLORENCE_HOST_DEVICE inline bool precedes(const Candidate& a, const Candidate& b) {
  if (a.score != b.score) return a.score > b.score;
  if (a.beam != b.beam) return a.beam < b.beam;
  if (a.logit != b.logit) return a.logit > b.logit;
  return a.token < b.token;
}

// The token that sequences of `length` tokens must get next, or kNoToken. EOS is forced last, so it wins.
FLORENCE_HOST_DEVICE inline int32_t forced_token(const florence_beam_dims& dims, int32_t length) {
  if (dims.forced_eos_token >= 0 && length == dims.max_length - 1) return dims.forced_eos_token;
  if (dims.forced_bos_token >= 0 && length == 1) return dims.forced_bos_token;
  return kNoToken;
}

// Bytes of one row of the bits that say which tokens may follow.
FLORENCE_HOST_DEVICE inline int64_t allowed_bytes(const florence_beam_dims& dims) { return (dims.vocab + 7) / 8; }

FLORENCE_HOST_DEVICE inline bool is_allowed(const uint8_t* allowed, int32_t token) {
  return (allowed[token / 8] >> (token % 8) & 1) != 0;
}

FLORENCE_HOST_DEVICE inline bool eos_is_banned(const florence_beam_dims& dims, int32_t length) {
  return length - kPromptLength < dims.min_new_tokens;
}

// How many n-grams a sequence of `length` tokens holds: each may ban the token that would repeat it.
FLORENCE_HOST_DEVICE inline int32_t ngram_count(const florence_beam_dims& dims, int32_t length) {
  return dims.no_repeat_ngram > 0 && length >= dims.no_repeat_ngram ? length + 1 - dims.no_repeat_ngram : 0;
}

// The token that would repeat the n-gram at `start` if it came next, or kNoToken.
FLORENCE_HOST_DEVICE inline int32_t ngram_ban(const florence_beam_dims& dims, const int32_t* tokens, int32_t length,
                                              int32_t start) {
  const int32_t tail = length + 1 - dims.no_repeat_ngram;
  for (int32_t i = 0; i < dims.no_repeat_ngram - 1; ++i) {
    if (tokens[start + i] != tokens[tail + i]) return kNoToken;
  }
  return tokens[start + dims.no_repeat_ngram - 1];
}

FLORENCE_HOST_DEVICE inline bool hits_stop(const florence_beam_dims& dims, int32_t token, int32_t new_length) {
  return token == dims.eos_token || new_length >= dims.max_length;
}

}  // namespace florence
