// Second kernel of a beam step, one block per image: merges the candidates, chooses what runs on and what is kept,
// moves the sequences, and decides whether the image is done. The last block to finish advances the position.
#include "beam.cuh"

namespace florence::device {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxCandidates = FLORENCE_MAX_BEAMS * kMaxParts * kMaxKept;
constexpr int kMaxMerged = FLORENCE_MAX_BEAMS + kMaxKept;

// What the threads of a block tell each other.
struct Selection {
  float log_largest[FLORENCE_MAX_BEAMS], log_sum[FLORENCE_MAX_BEAMS];  // of each beam's log-softmax
  Candidate best[kMaxKept];
  bool hits[kMaxKept];
  int running[FLORENCE_MAX_BEAMS];   // index into best
  int finished[FLORENCE_MAX_BEAMS];  // old slot, or beams + index into best
  float running_scores[kMaxKept], merged_scores[kMaxMerged];
  float finished_scores[FLORENCE_MAX_BEAMS];
  int32_t finished_lengths[FLORENCE_MAX_BEAMS], finished_flags[FLORENCE_MAX_BEAMS];
};

// One image's view of the arrays.
struct Image {
  const florence_beam_dims& dims;
  const florence_beam_state& state;
  int index, length;  // length: tokens of a running sequence before this step

  __device__ __forceinline__ int row(int beam) const { return index * dims.beams + beam; }
  __device__ __forceinline__ int64_t tokens(int beam) const { return int64_t(row(beam)) * dims.capacity; }
};

// Puts the pieces of each beam's log-softmax together, parts in order.
__device__ __forceinline__ void merge_log_softmax(const Image& image, const Candidates& candidates, Selection& chosen) {
  const int beam = threadIdx.x;
  if (beam >= image.dims.beams) return;
  const int64_t first = int64_t(image.row(beam)) * candidates.parts;
  float largest = -INFINITY, sum = 0;
  for (int p = 0; p < candidates.parts; ++p) largest = fmaxf(largest, candidates.largest[first + p]);
  for (int p = 0; p < candidates.parts && largest > -INFINITY; ++p) {
    sum += candidates.sums[first + p] * expf(candidates.largest[first + p] - largest);
  }
  chosen.log_largest[beam] = largest;
  chosen.log_sum[beam] = logf(sum);
}

// Finds the best 2 * beams candidates: the rank of a candidate is the number of those that precede it.
__device__ __forceinline__ void find_best(const Image& image, const Candidates& candidates, Selection& chosen) {
  __shared__ float scores[kMaxCandidates], logits[kMaxCandidates];
  __shared__ int32_t tokens[kMaxCandidates];
  const int per_beam = candidates.parts * candidates.kept, count = image.dims.beams * per_beam;
  const int64_t first = int64_t(image.row(0)) * per_beam;
  const bool forced = forced_token(image.dims, image.length) != kNoToken;
  auto logprob = [&](float logit, int beam) {
    if (forced || logit == -INFINITY) return logit;
    return logit - chosen.log_largest[beam] - chosen.log_sum[beam];
  };
  for (int i = threadIdx.x; i < count; i += kThreads) {
    logits[i] = candidates.logits[first + i];
    tokens[i] = candidates.tokens[first + i];
    scores[i] = logprob(logits[i], i / per_beam) + image.state.running_scores[image.row(i / per_beam)];
  }
  __syncthreads();
  auto candidate = [&](int i) {
    return Candidate{scores[i], logprob(logits[i], i / per_beam), logits[i], i / per_beam, tokens[i]};
  };
  for (int i = threadIdx.x; i < count; i += kThreads) {
    if (tokens[i] == kNoCandidate) continue;
    const Candidate own = candidate(i);
    int rank = 0;
    for (int beam = 0, j = 0; beam < image.dims.beams; ++beam) {
      for (const int end = j + per_beam; j < end; ++j) {
        rank += tokens[j] != kNoCandidate && precedes({scores[j], 0.0f, logits[j], beam, tokens[j]}, own);
      }
    }
    if (rank < candidates.kept) chosen.best[rank] = own;
  }
}

// Writes the indices of the `wanted` largest scores to `order`, equal ones in index order.
__device__ __forceinline__ void take_largest(const float* scores, int count, int wanted, int* order) {
  const int own = threadIdx.x;
  if (own >= count) return;
  int rank = 0;
  for (int j = 0; j < count; ++j) rank += scores[j] > scores[own] || (scores[j] == scores[own] && j < own);
  if (rank < wanted) order[rank] = own;
}

// Scores of the candidates as running beams and, after those of the kept hypotheses, as finished ones.
__device__ __forceinline__ void score_outcomes(const Image& image, int kept, Selection& chosen) {
  const int beams = image.dims.beams, i = threadIdx.x;
  if (i < beams) chosen.merged_scores[i] = image.state.finished_scores[image.row(i)];
  if (i >= kept) return;
  const Candidate& candidate = chosen.best[i];
  chosen.hits[i] = hits_stop(image.dims, candidate.token, image.length + 1);
  chosen.running_scores[i] = candidate.score + (chosen.hits[i] ? kEmptyScore : 0.0f);
  const float score = candidate.score / image.state.length_norms[image.length + 1 - kPromptLength];
  chosen.merged_scores[beams + i] = chosen.hits[i] && i < beams ? score : score + kEmptyScore;
}

// Reads what slot `threadIdx.x` will hold, before any slot is overwritten.
__device__ __forceinline__ void read_finished(const Image& image, Selection& chosen) {
  const int slot = threadIdx.x, beams = image.dims.beams;
  if (slot >= beams) return;
  const int source = chosen.finished[slot];
  const bool fresh = source >= beams;
  chosen.finished_scores[slot] = chosen.merged_scores[source];
  chosen.finished_lengths[slot] = fresh ? image.length + 1 : image.state.finished_lengths[image.row(source)];
  chosen.finished_flags[slot] =
      fresh ? chosen.hits[source - beams] && source - beams < beams : image.state.finished_flags[image.row(source)];
}

// Moves column t of the running and finished sequences; `stage` is this thread's, kThreads entries apart.
template <class V>
__device__ __forceinline__ void move_column(const Image& image, const Selection& chosen, V* running, V* finished, int t,
                                            uint32_t* stage) {
  const int beams = image.dims.beams;
  V* column = reinterpret_cast<V*>(stage);
  for (int beam = 0; beam < beams; ++beam) {
    column[beam * kThreads] = running[image.tokens(beam) + t];
    column[(beams + beam) * kThreads] = finished[image.tokens(beam) + t];
  }
  for (int beam = 0; beam < beams; ++beam) {
    const int source = chosen.finished[beam];
    const int from = source < beams ? beams + source : chosen.best[source - beams].beam;
    finished[image.tokens(beam) + t] = column[from * kThreads];
    running[image.tokens(beam) + t] = column[chosen.best[chosen.running[beam]].beam * kThreads];
  }
}

__device__ __forceinline__ void move_sequences(const Image& image, const Selection& chosen) {
  __shared__ uint32_t stage[2 * FLORENCE_MAX_BEAMS * kThreads];
  const florence_beam_state& state = image.state;
  uint32_t* own = stage + threadIdx.x;
  for (int t = threadIdx.x; t < image.length; t += kThreads) {
    move_column(image, chosen, state.running_tokens, state.finished_tokens, t, own);
    move_column(image, chosen, state.running_logprobs, state.finished_logprobs, t, own);
    for (int beam = 0; beam < image.dims.beams; ++beam)
      own[beam * kThreads] = state.indirection[image.tokens(beam) + t];
    for (int beam = 0; beam < image.dims.beams; ++beam) {
      const int parent = chosen.best[chosen.running[beam]].beam;
      state.indirection[image.tokens(beam) + t] = uint8_t(own[parent * kThreads]);
    }
  }
}

// Appends the new tokens and writes what there is once per beam.
__device__ __forceinline__ void append(const Image& image, const Selection& chosen) {
  const int beam = threadIdx.x, beams = image.dims.beams;
  if (beam >= beams) return;
  const florence_beam_state& state = image.state;
  const int64_t end = image.tokens(beam) + image.length;
  const int row = image.row(beam), kept = chosen.finished[beam];
  const Candidate& candidate = chosen.best[chosen.running[beam]];
  state.running_tokens[end] = state.next_tokens[row] = candidate.token;
  state.running_logprobs[end] = candidate.logprob;
  state.running_scores[row] = chosen.running_scores[chosen.running[beam]];
  state.parents[row] = candidate.beam;
  state.indirection[end] = uint8_t(beam);
  if (kept >= beams) {
    state.finished_tokens[end] = chosen.best[kept - beams].token;
    state.finished_logprobs[end] = chosen.best[kept - beams].logprob;
  }
  state.finished_scores[row] = chosen.finished_scores[beam];
  state.finished_lengths[row] = chosen.finished_lengths[beam];
  state.finished_flags[row] = chosen.finished_flags[beam];
}

__device__ __forceinline__ void update_stop(const Image& image, const Selection& chosen, int kept) {
  const florence_beam_dims& dims = image.dims;
  const bool reaches_for_max = dims.early_stopping == FLORENCE_STOP_NEVER && dims.length_penalty > 0;
  const float norm = image.state.length_norms[(reaches_for_max ? dims.max_length : image.length + 1) - kPromptLength];
  const float best = chosen.running_scores[chosen.running[0]] / norm;
  float worst = INFINITY;
  bool improves = false, full = true, all_hit = true;
  for (int slot = 0; slot < dims.beams; ++slot) worst = fminf(worst, chosen.finished_scores[slot]);
  for (int slot = 0; slot < dims.beams; ++slot) {
    improves = improves || best > (chosen.finished_flags[slot] ? worst : kEmptyScore);
    full = full && chosen.finished_flags[slot];
  }
  for (int i = 0; i < kept; ++i) all_hit = all_hit && chosen.hits[i];
  const bool can_improve = image.state.can_improve[image.index] && improves;
  image.state.can_improve[image.index] = can_improve;
  image.state.image_done[image.index] =
      !can_improve || (full && dims.early_stopping == FLORENCE_STOP_WHEN_FULL) || all_hit;
}

__device__ __forceinline__ void report(const florence_beam_dims& dims, const florence_beam_state& state,
                                       int32_t* progress) {
  const volatile int32_t* done = state.image_done;
  int left = 0;
  for (int i = 0; i < dims.batch; ++i) left += done[i] == 0;
  volatile int32_t* to = progress;
  to[0] = left;
  to[1] = *state.position + 1;
  __threadfence_system();
}

// The last block to arrive sees the others' image_done. arrivals counts blocks below, searching blocks above bit 16.
__device__ __forceinline__ void arrive(const florence_beam_dims& dims, const florence_beam_state& state, bool searching,
                                       int32_t* progress) {
  __threadfence();
  const int own = searching ? (1 << 16) + 1 : 1, before = atomicAdd(state.arrivals, own);
  if ((before & 0xffff) != int(gridDim.x) - 1) return;
  *state.arrivals = 0;
  if ((before + own) >> 16 > 0) ++*state.position;
  __threadfence();
  report(dims, state, progress);
}

__global__ void __launch_bounds__(kThreads)
    select_beams(florence_beam_dims dims, florence_beam_state state, Candidates candidates, int32_t* progress) {
  __shared__ Selection chosen;
  const Image image{dims, state, int(blockIdx.x), *state.position + 1};
  const bool searching = !state.image_done[image.index];
  if (searching) {
    merge_log_softmax(image, candidates, chosen);
    __syncthreads();
    find_best(image, candidates, chosen);
    __syncthreads();
    score_outcomes(image, candidates.kept, chosen);
    __syncthreads();
    take_largest(chosen.running_scores, candidates.kept, dims.beams, chosen.running);
    take_largest(chosen.merged_scores, dims.beams + candidates.kept, dims.beams, chosen.finished);
    __syncthreads();
    read_finished(image, chosen);
    __syncthreads();
    move_sequences(image, chosen);
    append(image, chosen);
    if (threadIdx.x == 0) update_stop(image, chosen, candidates.kept);
  }
  __syncthreads();
  if (threadIdx.x == 0) arrive(dims, state, searching, progress);
}

__global__ void __launch_bounds__(kThreads)
    begin_search(florence_beam_dims dims, florence_beam_state state, int32_t* progress) {
  for (int length = threadIdx.x; length <= dims.max_length; length += kThreads) {
    state.length_norms[length] = float(pow(double(length), double(dims.length_penalty)));
  }
  for (int row = threadIdx.x; row < dims.batch * dims.beams; row += kThreads) {
    const int beam = row % dims.beams;
    const int64_t start = int64_t(row) * dims.capacity;
    state.next_tokens[row] = state.running_tokens[start] = state.finished_tokens[start] = dims.start_token;
    state.running_logprobs[start] = state.finished_logprobs[start] = 0;
    state.parents[row] = beam;
    state.indirection[start] = uint8_t(beam);
    state.running_scores[row] = beam == 0 ? 0 : kEmptyScore;
    state.finished_scores[row] = kEmptyScore;
    state.finished_lengths[row] = kPromptLength;
    state.finished_flags[row] = 0;
  }
  for (int i = threadIdx.x; i < dims.batch; i += kThreads) {
    state.can_improve[i] = 1;
    state.image_done[i] = 0;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  *state.position = *state.arrivals = 0;
  report(dims, state, progress);
}

}  // namespace
}  // namespace florence::device

int florence_beam_begin(const florence_beam_dims* dims, const florence_beam_state* state, int32_t* progress,
                        void* stream) {
  using namespace florence::device;
  FLORENCE_TRY(florence::check(dims));
  FLORENCE_REQUIRE("beam_begin", state, progress);
  FLORENCE_REQUIRE("beam_begin", state->position, state->arrivals);
  return launch(begin_search, dim3(1), kThreads, stream, *dims, *state, progress);
}

size_t florence_beam_step_workspace(const florence_beam_dims* dims) {
  using namespace florence::device;
  if (florence::check(dims) != FLORENCE_OK) return 0;
  const Candidates candidates = candidates_of(*dims, nullptr);
  return size_t(dims->batch) * dims->beams * candidates.parts * (2 + 2 * candidates.kept) * sizeof(float);
}

int florence_beam_step(const florence_beam_dims* dims, const florence_beam_state* state, const void* logits,
                       const uint8_t* allowed, int32_t* progress, void* workspace, void* stream) {
  using namespace florence::device;
  FLORENCE_TRY(florence::check(dims));
  FLORENCE_REQUIRE("beam_step", state, logits, progress, workspace);
  FLORENCE_REQUIRE("beam_step", state->position, state->arrivals);
  FLORENCE_TRY(florence::check_alignment("beam_step", {workspace}));
  const Candidates candidates = candidates_of(*dims, workspace);
  FLORENCE_TRY(launch_candidates(*dims, *state, logits, allowed, candidates, stream));
  return launch(select_beams, dim3(dims->batch), kThreads, stream, *dims, *state, candidates, progress);
}
