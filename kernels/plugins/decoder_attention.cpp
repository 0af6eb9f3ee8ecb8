// FlorenceDecoderSelfAttention and FlorenceDecoderCrossAttention: one query per beam. Both only read what they are
// given. Self-attention takes the keys and values of its own position beside the cache; who owns the cache adds them
// with florence_kv_append after the engine has run.
#include "checks.h"
#include "operation.h"

namespace florence::plugins {
namespace {

using nvinfer1::DimsExprs;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;

constexpr int kSlotsPerElement = 4;  // plugin tensors may not be uint8, so four slots travel in one int32

class SelfAttention final : public Operation {
 public:
  enum Input { kQuery, kKey, kValue, kKeyCache, kValueCache, kIndirection, kPosition, kImageDone };

  std::unique_ptr<Operation> clone() const override { return std::make_unique<SelfAttention>(*this); }

  const Signature& signature() const override {
    static const Signature signature{"FlorenceDecoderSelfAttention",
                                     {{"q", Kind::kElement, 3},
                                      {"k", Kind::kElement, 3},
                                      {"v", Kind::kElement, 3},
                                      {"k_cache", Kind::kElement, 5},
                                      {"v_cache", Kind::kElement, 5},
                                      {"indirection", Kind::kInt32, 3},
                                      {"position", Kind::kInt32, 1},
                                      {"image_done", Kind::kInt32, 1}},
                                     kImageDone};
    return signature;
  }

  std::vector<Attribute> attributes() override { return {{"scale", PluginFieldType::kFLOAT32, &dims_.scale, true}}; }

  void output_shape(const DimsExprs* inputs, nvinfer1::IExprBuilder&, DimsExprs* output) const override {
    *output = inputs[kQuery];
  }

  int set_shapes(const PluginTensorDesc* inputs, int count) override {
    const int64_t* cache = inputs[kKeyCache].dims.d;
    const int64_t batch = cache[0], beams = cache[1], heads = cache[2], length = cache[3], dim = cache[4];
    const auto expect = [&](int index, std::initializer_list<int64_t> needed) {
      return expect_dims(signature(), inputs, index, needed);
    };
    if (length % kSlotsPerElement != 0) {
      return refuse(FLORENCE_BAD_SHAPE, "%s: the cache holds %lld positions, allowed are multiples of %d",
                    signature().name, (long long)length, kSlotsPerElement);
    }
    for (int index : {kQuery, kKey, kValue}) FLORENCE_TRY(expect(index, {batch * beams, heads, dim}));
    FLORENCE_TRY(expect(kValueCache, {batch, beams, heads, length, dim}));
    FLORENCE_TRY(expect(kIndirection, {batch, beams, length / kSlotsPerElement}));
    FLORENCE_TRY(expect(kPosition, {1}));
    has_image_done_ = count > kImageDone;
    if (has_image_done_) FLORENCE_TRY(expect(kImageDone, {batch}));
    dims_.batch = int32_t(batch);
    dims_.beams = int32_t(beams);
    dims_.heads = int32_t(heads);
    dims_.head_dim = int32_t(dim);
    dims_.max_length = int32_t(length);
    dims_.row_stride = int32_t(heads * dim);
    dims_.dtype = dtype_of(inputs[kQuery].type);
    return check(&dims_);
  }

  int launch(const void* const* inputs, void* output, void*, void* stream) const override {
    // append is 0, so the kernel does not write what the casts make writable.
    return florence_decoder_self_attention(
        &dims_, inputs[kQuery], inputs[kKey], inputs[kValue], const_cast<void*>(inputs[kKeyCache]),
        const_cast<void*>(inputs[kValueCache]), static_cast<const uint8_t*>(inputs[kIndirection]),
        static_cast<const int32_t*>(inputs[kPosition]),
        has_image_done_ ? static_cast<const int32_t*>(inputs[kImageDone]) : nullptr, output, stream);
  }

 private:
  florence_self_dims dims_{};
  bool has_image_done_ = false;
};

class CrossAttention final : public Operation {
 public:
  enum Input { kQuery, kKey, kValue, kLengths, kImageDone };

  std::unique_ptr<Operation> clone() const override { return std::make_unique<CrossAttention>(*this); }

  const Signature& signature() const override {
    static const Signature signature{"FlorenceDecoderCrossAttention",
                                     {{"q", Kind::kElement, 3},
                                      {"k", Kind::kElement, 4},
                                      {"v", Kind::kElement, 4},
                                      {"lengths", Kind::kInt32, 1},
                                      {"image_done", Kind::kInt32, 1}},
                                     kImageDone};
    return signature;
  }

  std::vector<Attribute> attributes() override { return {{"scale", PluginFieldType::kFLOAT32, &dims_.scale, true}}; }

  void output_shape(const DimsExprs* inputs, nvinfer1::IExprBuilder&, DimsExprs* output) const override {
    *output = inputs[kQuery];
  }

  int set_shapes(const PluginTensorDesc* inputs, int count) override {
    const int64_t* keys = inputs[kKey].dims.d;
    const int64_t batch = keys[0], heads = keys[1], length = keys[2], dim = keys[3];
    const int64_t rows = inputs[kQuery].dims.d[0];
    const auto expect = [&](int index, std::initializer_list<int64_t> needed) {
      return expect_dims(signature(), inputs, index, needed);
    };
    if (batch < 1 || rows % batch != 0) {
      return refuse(FLORENCE_BAD_SHAPE, "%s: q has %lld rows and k %lld images, needed is one row per image and beam",
                    signature().name, (long long)rows, (long long)batch);
    }
    FLORENCE_TRY(expect(kQuery, {rows, heads, dim}));
    FLORENCE_TRY(expect(kValue, {batch, heads, length, dim}));
    FLORENCE_TRY(expect(kLengths, {batch}));
    has_image_done_ = count > kImageDone;
    if (has_image_done_) FLORENCE_TRY(expect(kImageDone, {batch}));
    dims_.batch = int32_t(batch);
    dims_.beams = int32_t(rows / batch);
    dims_.heads = int32_t(heads);
    dims_.head_dim = int32_t(dim);
    dims_.source_length = int32_t(length);
    dims_.row_stride = int32_t(heads * dim);
    dims_.dtype = dtype_of(inputs[kQuery].type);
    return check(&dims_);
  }

  size_t workspace() const override { return florence_decoder_cross_attention_workspace(&dims_); }

  int launch(const void* const* inputs, void* output, void* workspace, void* stream) const override {
    return florence_decoder_cross_attention(
        &dims_, inputs[kQuery], inputs[kKey], inputs[kValue], static_cast<const int32_t*>(inputs[kLengths]),
        has_image_done_ ? static_cast<const int32_t*>(inputs[kImageDone]) : nullptr, output, workspace, stream);
  }

 private:
  florence_cross_dims dims_{};
  bool has_image_done_ = false;
};

}  // namespace

std::unique_ptr<Operation> make_self_attention() { return std::make_unique<SelfAttention>(); }
std::unique_ptr<Operation> make_cross_attention() { return std::make_unique<CrossAttention>(); }

}  // namespace florence::plugins
