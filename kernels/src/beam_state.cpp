// Lays the arrays of a beam search out in one block, so that a client makes one allocation on the device it likes.
#include "checks.h"

namespace florence {
namespace {

constexpr size_t kAlignment = 256;

class Block {
 public:
  explicit Block(void* base) : base_(static_cast<char*>(base)) {}

  template <class T>
  void take(T*& pointer, size_t count) {
    pointer = base_ ? reinterpret_cast<T*>(base_ + size_) : nullptr;
    size_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
  }

  size_t size() const { return size_; }

 private:
  char* base_;
  size_t size_ = 0;
};

size_t lay_out(const florence_beam_dims& dims, void* base, florence_beam_state& state) {
  const size_t images = dims.batch, beams = images * dims.beams, tokens = beams * dims.capacity;
  Block block(base);
  block.take(state.position, 1);
  block.take(state.next_tokens, beams);
  block.take(state.parents, beams);
  block.take(state.indirection, tokens);
  block.take(state.running_tokens, tokens);
  block.take(state.running_logprobs, tokens);
  block.take(state.running_scores, beams);
  block.take(state.finished_tokens, tokens);
  block.take(state.finished_logprobs, tokens);
  block.take(state.finished_scores, beams);
  block.take(state.finished_lengths, beams);
  block.take(state.finished_flags, beams);
  block.take(state.can_improve, images);
  block.take(state.image_done, images);
  block.take(state.length_norms, size_t(dims.capacity) + 1);
  block.take(state.arrivals, 1);
  return block.size();
}

}  // namespace
}  // namespace florence

size_t florence_beam_state_size(const florence_beam_dims* dims) {
  florence_beam_state state;
  return florence::check(dims) == FLORENCE_OK ? florence::lay_out(*dims, nullptr, state) : 0;
}

int florence_beam_state_bind(const florence_beam_dims* dims, void* block, florence_beam_state* state) {
  FLORENCE_TRY(florence::check(dims));
  FLORENCE_REQUIRE("beam_state_bind", block, state);
  FLORENCE_TRY(florence::check_alignment("beam_state_bind", {block}));
  florence::lay_out(*dims, block, *state);
  return FLORENCE_OK;
}
