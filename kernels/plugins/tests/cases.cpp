#include "cases.h"

#include <cstring>
#include <random>

#include "florence_kernels.h"

namespace florence::test {
namespace {

using Pointers = std::vector<const void*>;

Case window(bool padded) {
  const int height = padded ? 13 : 12, window = padded ? 12 : 6;
  const int path = padded ? FLORENCE_PATH_AUTO : FLORENCE_PATH_PORTABLE;
  Case made{padded ? "windows of a padded map" : "windows of a whole map, portable, without bias",
            "FlorenceWindowAttention",
            {{"window", true, float(window)}, {"path", true, float(path)}},
            {{{2, height, 24, 192}, {}}},
            {2, height, 24, 64},
            false,
            {{0, {2, height, 24, 190}, "multiples of 96"}, {0, {2, height, 192}, "3 dimensions, needed are 4"}},
            {}};
  if (padded) {
    made.inputs.push_back({{192}, {}});
    made.refusals.push_back({1, {191}, "bias is [191], needed is [192]"});
  } else {
    made.refusals.push_back({0, {2, 13, 24, 192}, "bias is needed"});
  }
  made.twin = [=](int dtype, const Pointers& in, void* out) {
    const florence_window_dims dims{2, height, 24, 64, 2, window, dtype, FLORENCE_PATH_AUTO};
    return florence_window_attention_cpu(&dims, in[0], padded ? in[1] : nullptr, out, nullptr);
  };
  return made;
}

Case channel() {
  return {"channels",
          "FlorenceChannelAttention",
          {},
          {{{2, 700, 192}, {}}},
          {2, 700, 64},
          true,
          {{0, {2, 700, 100}, "multiples of 96"}, {0, {0, 700, 192}, "batch is 0"}},
          [](int dtype, const Pointers& in, void* out) {
            const florence_channel_dims dims{2, 700, 64, 2, dtype, FLORENCE_PATH_AUTO};
            return florence_channel_attention_cpu(&dims, in[0], out, nullptr, nullptr);
          }};
}

// Arbitrary slots and lengths are what a builder may hand over when it times a layer; they must not lead out of a
// tensor.
Case self_attention(int head_dim, bool arbitrary) {
  const int64_t batch = 2, beams = 3, heads = 2, length = 96, dim = head_dim;
  std::mt19937 generator;
  std::vector<uint8_t> slots(batch * beams * length);
  for (uint8_t& slot : slots) slot = generator() % (arbitrary ? 256 : beams);
  std::vector<int32_t> packed(slots.size() / 4);
  std::memcpy(packed.data(), slots.data(), slots.size());
  const Shape rows{batch * beams, heads, dim}, cache{batch, beams, heads, length, dim};
  Case made{
      arbitrary ? "self-attention, arbitrary slots" : "self-attention",
      "FlorenceDecoderSelfAttention",
      {{"scale", false, 0.125f}},
      {{rows, {}}, {rows, {}}, {rows, {}}, {cache, {}}, {cache, {}}, {{batch, beams, length / 4}, packed}, {{1}, {77}}},
      rows,
      false,
      {{1, {6, 2, 48}, "k is [6, 2, 48]"},
       {4, {2, 3, 2, 92, dim}, "v_cache is [2, 3, 2, 92"},
       {5, {2, 3, 96}, "indirection is [2, 3, 96], needed is [2, 3, 24]"},
       {6, {2}, "position is [2], needed is [1]"},
       {3, {2, 3, 2, 95, dim}, "95 positions"}},
      {}};
  if (!arbitrary) {
    made.inputs.push_back({{batch}, {0, 1}});
    made.refusals.push_back({7, {3}, "image_done is [3], needed is [2]"});
  }
  made.twin = [=](int dtype, const Pointers& in, void* out) {
    const florence_self_dims dims{2, 3, 2, head_dim, 96, 2 * head_dim, dtype, 0, 0.125f};
    return florence_decoder_self_attention_cpu(&dims, in[0], in[1], in[2], const_cast<void*>(in[3]),
                                               const_cast<void*>(in[4]), static_cast<const uint8_t*>(in[5]),
                                               static_cast<const int32_t*>(in[6]),
                                               arbitrary ? nullptr : static_cast<const int32_t*>(in[7]), out, nullptr);
  };
  return made;
}

Case cross_attention(bool with_done) {
  const Shape rows{6, 2, 64}, keys{2, 2, 200, 64};
  Case made{with_done ? "cross-attention, one image done" : "cross-attention, arbitrary lengths",
            "FlorenceDecoderCrossAttention",
            {{"scale", false, 0.125f}},
            {{rows, {}},
             {keys, {}},
             {keys, {}},
             {{2}, with_done ? std::vector<int32_t>{200, 131} : std::vector<int32_t>{-7, 1 << 30}}},
            rows,
            true,
            {{0, {5, 2, 64}, "q has 5 rows"},
             {2, {2, 2, 199, 64}, "v is [2, 2, 199, 64]"},
             {3, {1}, "lengths is [1], needed is [2]"},
             {0, {18, 2, 64}, "beams is 9"}},
            {}};
  if (with_done) made.inputs.push_back({{2}, {1, 0}});
  made.twin = [=](int dtype, const Pointers& in, void* out) {
    const florence_cross_dims dims{2, 3, 2, 64, 200, 128, dtype, 0.125f};
    return florence_decoder_cross_attention_cpu(&dims, in[0], in[1], in[2], static_cast<const int32_t*>(in[3]),
                                                with_done ? static_cast<const int32_t*>(in[4]) : nullptr, out, nullptr,
                                                nullptr);
  };
  return made;
}

}  // namespace

std::vector<Case> cases() {
  return {window(true),
          window(false),
          channel(),
          self_attention(64, false),
          self_attention(32, false),
          self_attention(64, true),
          cross_attention(false),
          cross_attention(true)};
}

}  // namespace florence::test
