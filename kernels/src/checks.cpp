#include "checks.h"

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <initializer_list>
#include <limits>

namespace florence {
namespace {

thread_local char last_error[256] = "";

struct Range {
  const char* name;
  int64_t value, low, high;
};

constexpr int64_t kAny = std::numeric_limits<int32_t>::max();

int check_ranges(const char* op, int status, std::initializer_list<Range> ranges) {
  for (const Range& range : ranges) {
    if (range.value < range.low || range.value > range.high) {
      return refuse(status, "%s: %s is %lld, allowed is %lld to %lld", op, range.name, (long long)range.value,
                    (long long)range.low, (long long)range.high);
    }
  }
  return FLORENCE_OK;
}

int check_dtype(const char* op, int dtype) {
  if (dtype >= FLORENCE_F32 && dtype <= FLORENCE_BF16) return FLORENCE_OK;
  return refuse(FLORENCE_BAD_DTYPE, "%s: dtype is %d, allowed are 0 (fp32), 1 (fp16) and 2 (bf16)", op, dtype);
}

// Offsets inside one tensor are computed in 64 bits, but a count of tokens, rows or blocks must fit in 31.
int check_count(const char* op, const char* name, std::initializer_list<int64_t> factors) {
  double count = 1;
  for (int64_t factor : factors) count *= double(factor);
  if (count <= double(kAny)) return FLORENCE_OK;
  return refuse(FLORENCE_BAD_SHAPE, "%s: %s is %.0f, allowed is up to %lld", op, name, count, (long long)kAny);
}

int check_heads(const char* op, int channels, int heads, const char* heads_name) {
  if (int64_t(channels) == int64_t(heads) * kHeadDim) return FLORENCE_OK;
  return refuse(FLORENCE_BAD_SHAPE, "%s: channels is %d with %s %d, allowed is %d channels for each", op, channels,
                heads_name, heads, kHeadDim);
}

int check_path(const char* op, int path, int dtype) {
  FLORENCE_TRY(check_ranges(op, FLORENCE_BAD_OPTION, {{"path", path, FLORENCE_PATH_AUTO, FLORENCE_PATH_TENSOR_CORES}}));
  if (path == FLORENCE_PATH_TENSOR_CORES && dtype == FLORENCE_F32) {
    return refuse(FLORENCE_BAD_OPTION, "%s: tensor cores were asked for with fp32, allowed are fp16 and bf16", op);
  }
  return FLORENCE_OK;
}

int check_decoder(const char* op, int head_dim, int row_stride, int heads, int dtype, float scale) {
  if (head_dim != 32 && head_dim != 64) {
    return refuse(FLORENCE_BAD_SHAPE, "%s: head_dim is %d, allowed are 32 and 64", op, head_dim);
  }
  if (row_stride < int64_t(heads) * head_dim || row_stride % 8 != 0) {
    return refuse(FLORENCE_BAD_SHAPE, "%s: row_stride is %d, allowed are multiples of 8 from heads * head_dim = %lld",
                  op, row_stride, (long long)heads * head_dim);
  }
  if (!std::isfinite(scale)) return refuse(FLORENCE_BAD_OPTION, "%s: scale is not finite", op);
  return check_dtype(op, dtype);
}

}  // namespace

int refuse(int status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(last_error, sizeof last_error, format, arguments);
  va_end(arguments);
  return status;
}

int check_pointers(const char* op, const char* names, std::initializer_list<const void*> pointers) {
  int index = 0;
  for (const void* pointer : pointers) {
    if (pointer == nullptr) {
      return refuse(FLORENCE_NULL_POINTER, "%s: pointer %d of (%s) is NULL", op, index + 1, names);
    }
    ++index;
  }
  return FLORENCE_OK;
}

int check_alignment(const char* op, std::initializer_list<const void*> pointers) {
  for (const void* pointer : pointers) {
    if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) {
      return refuse(FLORENCE_MISALIGNED, "%s: %p is not a multiple of 16 bytes", op, pointer);
    }
  }
  return FLORENCE_OK;
}

int check(const florence_resize_dims* dims) {
  const char* op = "resize_normalize";
  FLORENCE_REQUIRE(op, dims);
  FLORENCE_TRY(check_ranges(op, FLORENCE_BAD_SHAPE,
                            {{"in_height", dims->in_height, 1, kMaxImageSide},
                             {"in_width", dims->in_width, 1, kMaxImageSide},
                             {"out_height", dims->out_height, 1, kMaxImageSide},
                             {"out_width", dims->out_width, 1, kMaxImageSide},
                             {"row_stride", dims->row_stride, 3 * int64_t(dims->in_width), kAny}}));
  FLORENCE_TRY(
      check_ranges(op, FLORENCE_BAD_OPTION, {{"channel_order", dims->channel_order, FLORENCE_RGB, FLORENCE_BGR}}));
  for (int c = 0; c < 3; ++c) {
    if (!std::isfinite(dims->mean[c]) || !std::isfinite(dims->std[c]) || dims->std[c] <= 0) {
      return refuse(FLORENCE_BAD_OPTION, "%s: mean %g and std %g of channel %d, allowed are finite values and std > 0",
                    op, dims->mean[c], dims->std[c], c);
    }
  }
  return check_dtype(op, dims->dtype);
}

int check(const florence_window_dims* dims) {
  const char* op = "window_attention";
  FLORENCE_REQUIRE(op, dims);
  FLORENCE_TRY(check_ranges(op, FLORENCE_BAD_SHAPE,
                            {{"batch", dims->batch, 1, kAny},
                             {"height", dims->height, 1, kAny},
                             {"width", dims->width, 1, kAny},
                             {"heads", dims->heads, 1, 65535},
                             {"window", dims->window, 1, kMaxWindow}}));
  FLORENCE_TRY(check_heads(op, dims->channels, dims->heads, "heads"));
  FLORENCE_TRY(check_count(op, "batch * height * width", {dims->batch, dims->height, dims->width}));
  FLORENCE_TRY(check_dtype(op, dims->dtype));
  FLORENCE_TRY(check_path(op, dims->path, dims->dtype));
  if (dims->path == FLORENCE_PATH_TENSOR_CORES && dims->window != kMaxWindow) {
    return refuse(FLORENCE_BAD_OPTION, "%s: tensor cores were asked for with window %d, allowed is %d", op,
                  dims->window, kMaxWindow);
  }
  return FLORENCE_OK;
}

int check(const florence_channel_dims* dims) {
  const char* op = "channel_attention";
  FLORENCE_REQUIRE(op, dims);
  FLORENCE_TRY(check_ranges(
      op, FLORENCE_BAD_SHAPE,
      {{"batch", dims->batch, 1, 65535}, {"tokens", dims->tokens, 1, 1 << 30}, {"groups", dims->groups, 1, 65535}}));
  FLORENCE_TRY(check_heads(op, dims->channels, dims->groups, "groups"));
  FLORENCE_TRY(check_count(op, "batch * tokens", {dims->batch, dims->tokens}));
  FLORENCE_TRY(check_dtype(op, dims->dtype));
  return check_path(op, dims->path, dims->dtype);
}

int check(const florence_self_dims* dims) {
  const char* op = "decoder_self_attention";
  FLORENCE_REQUIRE(op, dims);
  FLORENCE_TRY(check_ranges(op, FLORENCE_BAD_SHAPE,
                            {{"batch", dims->batch, 1, 65535 / FLORENCE_MAX_BEAMS},
                             {"beams", dims->beams, 1, FLORENCE_MAX_BEAMS},
                             {"heads", dims->heads, 1, 65535},
                             {"max_length", dims->max_length, 1, kMaxLength}}));
  FLORENCE_TRY(check_ranges(op, FLORENCE_BAD_OPTION, {{"append", dims->append, 0, 1}}));
  return check_decoder(op, dims->head_dim, dims->row_stride, dims->heads, dims->dtype, dims->scale);
}

int check(const florence_cross_dims* dims) {
  const char* op = "decoder_cross_attention";
  FLORENCE_REQUIRE(op, dims);
  FLORENCE_TRY(check_ranges(op, FLORENCE_BAD_SHAPE,
                            {{"batch", dims->batch, 1, 65535 / FLORENCE_MAX_BEAMS},
                             {"beams", dims->beams, 1, FLORENCE_MAX_BEAMS},
                             {"heads", dims->heads, 1, 65535},
                             {"source_length", dims->source_length, 1, kMaxLength}}));
  return check_decoder(op, dims->head_dim, dims->row_stride, dims->heads, dims->dtype, dims->scale);
}

int check(const florence_beam_dims* dims) {
  const char* op = "beam_search";
  FLORENCE_REQUIRE(op, dims);
  FLORENCE_TRY(check_ranges(op, FLORENCE_BAD_SHAPE,
                            {{"batch", dims->batch, 1, 65535 / FLORENCE_MAX_BEAMS},
                             {"beams", dims->beams, 1, FLORENCE_MAX_BEAMS},
                             {"vocab", dims->vocab, 2, kMaxVocab},
                             {"capacity", dims->capacity, 2, kMaxLength},
                             {"max_length", dims->max_length, 2, dims->capacity}}));
  const int64_t last_token = dims->vocab - 1;
  FLORENCE_TRY(check_ranges(op, FLORENCE_BAD_OPTION,
                            {{"start_token", dims->start_token, 0, last_token},
                             {"eos_token", dims->eos_token, 0, last_token},
                             {"forced_bos_token", dims->forced_bos_token, -1, last_token},
                             {"forced_eos_token", dims->forced_eos_token, -1, last_token},
                             {"no_repeat_ngram", dims->no_repeat_ngram, 0, kMaxLength},
                             {"min_new_tokens", dims->min_new_tokens, 0, dims->max_length},
                             {"early_stopping", dims->early_stopping, FLORENCE_STOP_HEURISTIC, FLORENCE_STOP_NEVER}}));
  if (!std::isfinite(dims->length_penalty)) {
    return refuse(FLORENCE_BAD_OPTION, "%s: length_penalty is not finite", op);
  }
  return check_dtype(op, dims->dtype);
}

}  // namespace florence

const char* florence_last_error(void) { return florence::last_error; }
