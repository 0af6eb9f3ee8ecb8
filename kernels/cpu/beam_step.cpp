// Beam search of transformers >= 4.50 (generation/utils.py: _beam_search and its helpers), one image at a time.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "beam_rules.h"
#include "checks.h"
#include "numbers.h"

namespace florence::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Hypothesis {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  float score;
  bool finished;
};

class ImageSearch {
 public:
  ImageSearch(const florence_beam_dims& dims, const florence_beam_state& state, int image)
      : dims_(dims), state_(state), image_(image), first_row_(image * dims.beams), length_(*state.position + 1) {}

  template <class T>
  void step(const T* logits, const uint8_t* allowed) {
    const std::vector<Candidate> best = best_candidates(logits, allowed);
    std::vector<bool> hits(best.size());
    for (size_t i = 0; i < best.size(); ++i) hits[i] = hits_stop(dims_, best[i].token, length_ + 1);
    // Both are computed from the running sequences before either is written back.
    const std::vector<Hypothesis> finished = merge_finished(best, hits);
    std::vector<Hypothesis> running;
    std::vector<int32_t> parents;
    for (int i : next_running(best, hits)) {
      running.push_back(extend(best[i], best[i].score + (hits[i] ? kEmptyScore : 0.0f)));
      parents.push_back(best[i].beam);
    }
    write_finished(finished);
    write_running(running, parents);
    update_stop(std::all_of(hits.begin(), hits.end(), [](bool hit) { return hit; }));
  }

 private:
  size_t tokens_at(int beam) const { return size_t(first_row_ + beam) * dims_.capacity; }

  // Processed log-probabilities of one beam, as candidates in token order.
  template <class T>
  std::vector<Candidate> score_tokens(const T* logits, const uint8_t* allowed, int beam) const {
    const int32_t* tokens = state_.running_tokens + tokens_at(beam);
    std::vector<float> values(dims_.vocab);
    for (int v = 0; v < dims_.vocab; ++v) {
      const float value = to_float(logits[v]);
      values[v] = std::isnan(value) ? -kInfinity : std::min(value, std::numeric_limits<float>::max());
    }
    const float largest = *std::max_element(values.begin(), values.end());
    double sum = 0;
    for (float value : values) sum += largest == -kInfinity ? 0 : std::exp(double(value) - largest);
    const float log_sum = float(std::log(sum));
    for (int start = 0; start < ngram_count(dims_, length_); ++start) {
      const int32_t banned = ngram_ban(dims_, tokens, length_, start);
      if (banned != kNoToken) values[banned] = -kInfinity;
    }
    if (eos_is_banned(dims_, length_)) values[dims_.eos_token] = -kInfinity;
    for (int v = 0; v < dims_.vocab && allowed != nullptr; ++v) {
      if (!is_allowed(allowed, v)) values[v] = -kInfinity;
    }
    const int32_t forced = forced_token(dims_, length_);
    std::vector<Candidate> candidates(dims_.vocab);
    for (int v = 0; v < dims_.vocab; ++v) {
      float value = values[v], logprob = value == -kInfinity ? -kInfinity : value - largest - log_sum;
      if (forced != kNoToken) value = logprob = v == forced ? 0 : -kInfinity;
      candidates[v] = {logprob + state_.running_scores[first_row_ + beam], logprob, value, beam, v};
    }
    return candidates;
  }

  // The best 2 * beams candidates of all beams: each beam may end with one of them, and as many must go on.
  template <class T>
  std::vector<Candidate> best_candidates(const T* logits, const uint8_t* allowed) const {
    std::vector<Candidate> candidates;
    for (int beam = 0; beam < dims_.beams; ++beam) {
      const size_t row = first_row_ + beam;
      const uint8_t* row_allowed = allowed == nullptr ? nullptr : allowed + row * allowed_bytes(dims_);
      const std::vector<Candidate> scored = score_tokens(logits + row * dims_.vocab, row_allowed, beam);
      candidates.insert(candidates.end(), scored.begin(), scored.end());
    }
    const auto end = candidates.begin() + 2 * dims_.beams;
    std::partial_sort(candidates.begin(), end, candidates.end(), precedes);
    return {candidates.begin(), end};
  }

  // Which candidates run on.
  std::vector<int> next_running(const std::vector<Candidate>& best, const std::vector<bool>& hits) const {
    std::vector<int> order(best.size());
    std::iota(order.begin(), order.end(), 0);
    auto score = [&](int i) { return best[i].score + (hits[i] ? kEmptyScore : 0.0f); };
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return score(a) > score(b); });
    order.resize(dims_.beams);
    return order;
  }

  // The finished hypotheses after this step: only the first `beams` candidates may end one.
  std::vector<Hypothesis> merge_finished(const std::vector<Candidate>& best, const std::vector<bool>& hits) const {
    std::vector<Hypothesis> merged;
    for (int slot = 0; slot < dims_.beams; ++slot) merged.push_back(read_finished(slot));
    for (size_t i = 0; i < best.size(); ++i) {
      const bool counts = hits[i] && int(i) < dims_.beams;
      Hypothesis hypothesis = extend(best[i], best[i].score / state_.length_norms[length_ + 1 - kPromptLength]);
      hypothesis.finished = counts;
      if (!counts) hypothesis.score += kEmptyScore;
      merged.push_back(std::move(hypothesis));
    }
    std::stable_sort(merged.begin(), merged.end(), [](const auto& a, const auto& b) { return a.score > b.score; });
    merged.resize(dims_.beams);
    return merged;
  }

  Hypothesis extend(const Candidate& candidate, float score) const {
    const size_t start = tokens_at(candidate.beam);
    Hypothesis hypothesis{{state_.running_tokens + start, state_.running_tokens + start + length_},
                          {state_.running_logprobs + start, state_.running_logprobs + start + length_},
                          score,
                          false};
    hypothesis.tokens.push_back(candidate.token);
    hypothesis.logprobs.push_back(candidate.logprob);
    return hypothesis;
  }

  Hypothesis read_finished(int slot) const {
    const size_t start = tokens_at(slot), length = state_.finished_lengths[first_row_ + slot];
    return {{state_.finished_tokens + start, state_.finished_tokens + start + length},
            {state_.finished_logprobs + start, state_.finished_logprobs + start + length},
            state_.finished_scores[first_row_ + slot],
            state_.finished_flags[first_row_ + slot] != 0};
  }

  void write_finished(const std::vector<Hypothesis>& finished) {
    for (int slot = 0; slot < dims_.beams; ++slot) {
      const Hypothesis& hypothesis = finished[slot];
      std::copy(hypothesis.tokens.begin(), hypothesis.tokens.end(), state_.finished_tokens + tokens_at(slot));
      std::copy(hypothesis.logprobs.begin(), hypothesis.logprobs.end(), state_.finished_logprobs + tokens_at(slot));
      state_.finished_scores[first_row_ + slot] = hypothesis.score;
      state_.finished_lengths[first_row_ + slot] = int32_t(hypothesis.tokens.size());
      state_.finished_flags[first_row_ + slot] = hypothesis.finished;
    }
  }

  void write_running(const std::vector<Hypothesis>& running, const std::vector<int32_t>& parents) {
    const std::vector<uint8_t> slots(state_.indirection + tokens_at(0), state_.indirection + tokens_at(dims_.beams));
    for (int beam = 0; beam < dims_.beams; ++beam) {
      std::copy(running[beam].tokens.begin(), running[beam].tokens.end(), state_.running_tokens + tokens_at(beam));
      std::copy(running[beam].logprobs.begin(), running[beam].logprobs.end(),
                state_.running_logprobs + tokens_at(beam));
      state_.running_scores[first_row_ + beam] = running[beam].score;
      state_.next_tokens[first_row_ + beam] = running[beam].tokens.back();
      state_.parents[first_row_ + beam] = parents[beam];
      // Positions written so far are found where the parent found them; the next one goes into the beam's own slot.
      uint8_t* own = state_.indirection + tokens_at(beam);
      const uint8_t* parent = slots.data() + size_t(parents[beam]) * dims_.capacity;
      std::copy(parent, parent + length_, own);
      if (length_ < dims_.max_length) own[length_] = uint8_t(beam);
    }
  }

  // Whether a running beam can still beat a finished hypothesis, and whether the image is done.
  void update_stop(bool all_hit) {
    const int new_length = length_ + 1;
    const bool reaches_for_max = dims_.early_stopping == FLORENCE_STOP_NEVER && dims_.length_penalty > 0;
    const float norm = state_.length_norms[(reaches_for_max ? dims_.max_length : new_length) - kPromptLength];
    const float* scores = state_.finished_scores + first_row_;
    const int32_t* flags = state_.finished_flags + first_row_;
    const float best = state_.running_scores[first_row_] / norm,
                worst = *std::min_element(scores, scores + dims_.beams);
    bool improves = false, full = true;
    for (int slot = 0; slot < dims_.beams; ++slot) {
      improves = improves || best > (flags[slot] ? worst : kEmptyScore);
      full = full && flags[slot];
    }
    state_.can_improve[image_] = state_.can_improve[image_] && improves;
    state_.image_done[image_] =
        !state_.can_improve[image_] || (full && dims_.early_stopping == FLORENCE_STOP_WHEN_FULL) || all_hit;
  }

  const florence_beam_dims& dims_;
  const florence_beam_state& state_;
  const int image_, first_row_, length_;
};

void report(const florence_beam_dims& dims, const florence_beam_state& state, int32_t* progress) {
  progress[0] = int32_t(std::count(state.image_done, state.image_done + dims.batch, 0));
  progress[1] = *state.position + 1;
}

void begin(const florence_beam_dims& dims, const florence_beam_state& state) {
  const int rows = dims.batch * dims.beams;
  *state.position = *state.arrivals = 0;
  std::fill_n(state.can_improve, dims.batch, 1);
  std::fill_n(state.image_done, dims.batch, 0);
  for (int length = 0; length <= dims.max_length; ++length) {
    state.length_norms[length] = float(std::pow(double(length), double(dims.length_penalty)));
  }
  for (int row = 0; row < rows; ++row) {
    const int beam = row % dims.beams;
    const size_t start = size_t(row) * dims.capacity;
    state.next_tokens[row] = state.running_tokens[start] = state.finished_tokens[start] = dims.start_token;
    state.running_logprobs[start] = state.finished_logprobs[start] = 0;
    state.parents[row] = state.indirection[start] = uint8_t(beam);
    // One beam starts: the others would only repeat it.
    state.running_scores[row] = beam == 0 ? 0 : kEmptyScore;
    state.finished_scores[row] = kEmptyScore;
    state.finished_lengths[row] = kPromptLength;
    state.finished_flags[row] = 0;
  }
}

}  // namespace
}  // namespace florence::cpu

int florence_beam_begin_cpu(const florence_beam_dims* dims, const florence_beam_state* state, int32_t* progress,
                            void*) {
  FLORENCE_TRY(florence::check(dims));
  FLORENCE_REQUIRE("beam_begin", state, progress);
  FLORENCE_REQUIRE("beam_begin", state->position, state->arrivals);
  florence::cpu::begin(*dims, *state);
  florence::cpu::report(*dims, *state, progress);
  return FLORENCE_OK;
}

int florence_beam_step_cpu(const florence_beam_dims* dims, const florence_beam_state* state, const void* logits,
                           const uint8_t* allowed, int32_t* progress, void*, void*) {
  FLORENCE_TRY(florence::check(dims));
  FLORENCE_REQUIRE("beam_step", state, logits, progress);
  FLORENCE_REQUIRE("beam_step", state->position, state->arrivals);
  const int images = dims->batch;
  if (std::count(state->image_done, state->image_done + images, 0) > 0) {
    for (int image = 0; image < images; ++image) {
      if (state->image_done[image]) continue;
      florence::cpu::with_dtype(dims->dtype, [&](auto element) {
        florence::cpu::ImageSearch(*dims, *state, image).step(static_cast<const decltype(element)*>(logits), allowed);
      });
    }
    ++*state->position;
  }
  florence::cpu::report(*dims, *state, progress);
  return FLORENCE_OK;
}
