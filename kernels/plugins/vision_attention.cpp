// FlorenceWindowAttention and FlorenceChannelAttention: DaViT's two attentions, from the fused QKV projection on.
#include "checks.h"
#include "operation.h"

namespace florence::plugins {
namespace {

using nvinfer1::DimsExprs;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;

// The shape of qkv with a third of its channels.
void context_shape(const DimsExprs& qkv, nvinfer1::IExprBuilder& build, DimsExprs* output) {
  *output = qkv;
  const int last = qkv.nbDims - 1;
  output->d[last] = build.operation(nvinfer1::DimensionOperation::kFLOOR_DIV, *qkv.d[last], *build.constant(3));
}

int check_fused_channels(const Signature& signature, int64_t channels) {
  if (channels % (3 * kHeadDim) == 0) return FLORENCE_OK;
  return refuse(FLORENCE_BAD_SHAPE, "%s: qkv has %lld channels, allowed are multiples of %d: q, k and v of heads of %d",
                signature.name, (long long)channels, 3 * kHeadDim, kHeadDim);
}

class WindowAttention final : public Operation {
 public:
  std::unique_ptr<Operation> clone() const override { return std::make_unique<WindowAttention>(*this); }

  const Signature& signature() const override {
    static const Signature signature{
        "FlorenceWindowAttention", {{"qkv", Kind::kElement, 4}, {"bias", Kind::kElement, 1}}, 1};
    return signature;
  }

  std::vector<Attribute> attributes() override {
    return {{"window", PluginFieldType::kINT32, &dims_.window, false},
            {"path", PluginFieldType::kINT32, &dims_.path, false}};
  }

  void output_shape(const DimsExprs* inputs, nvinfer1::IExprBuilder& build, DimsExprs* output) const override {
    context_shape(inputs[0], build, output);
  }

  int set_shapes(const PluginTensorDesc* inputs, int count) override {
    const int64_t* qkv = inputs[0].dims.d;
    FLORENCE_TRY(check_fused_channels(signature(), qkv[3]));
    has_bias_ = count > 1;
    dims_.batch = int32_t(qkv[0]);
    dims_.height = int32_t(qkv[1]);
    dims_.width = int32_t(qkv[2]);
    dims_.channels = int32_t(qkv[3] / 3);
    dims_.heads = dims_.channels / kHeadDim;
    dims_.dtype = dtype_of(inputs[0].type);
    if (has_bias_) FLORENCE_TRY(expect_dims(signature(), inputs, 1, {qkv[3]}));
    FLORENCE_TRY(check(&dims_));
    if (has_bias_ || !has_padding(dims_)) return FLORENCE_OK;
    return refuse(FLORENCE_BAD_SHAPE, "%s: a map of %d x %d is padded to windows of %d, so the input bias is needed",
                  signature().name, dims_.height, dims_.width, dims_.window);
  }

  int launch(const void* const* inputs, void* output, void*, void* stream) const override {
    return florence_window_attention(&dims_, inputs[0], has_bias_ ? inputs[1] : nullptr, output, stream);
  }

 private:
  florence_window_dims dims_{0, 0, 0, 0, 0, kMaxWindow, 0, FLORENCE_PATH_AUTO};
  bool has_bias_ = false;
};

class ChannelAttention final : public Operation {
 public:
  std::unique_ptr<Operation> clone() const override { return std::make_unique<ChannelAttention>(*this); }

  const Signature& signature() const override {
    static const Signature signature{"FlorenceChannelAttention", {{"qkv", Kind::kElement, 3}}, 1};
    return signature;
  }

  std::vector<Attribute> attributes() override { return {{"path", PluginFieldType::kINT32, &dims_.path, false}}; }

  void output_shape(const DimsExprs* inputs, nvinfer1::IExprBuilder& build, DimsExprs* output) const override {
    context_shape(inputs[0], build, output);
  }

  int set_shapes(const PluginTensorDesc* inputs, int) override {
    const int64_t* qkv = inputs[0].dims.d;
    FLORENCE_TRY(check_fused_channels(signature(), qkv[2]));
    dims_.batch = int32_t(qkv[0]);
    dims_.tokens = int32_t(qkv[1]);
    dims_.channels = int32_t(qkv[2] / 3);
    dims_.groups = dims_.channels / kHeadDim;
    dims_.dtype = dtype_of(inputs[0].type);
    return check(&dims_);
  }

  size_t workspace() const override { return florence_channel_attention_workspace(&dims_); }

  int launch(const void* const* inputs, void* output, void* workspace, void* stream) const override {
    return florence_channel_attention(&dims_, inputs[0], output, workspace, stream);
  }

 private:
  florence_channel_dims dims_{0, 0, 0, 0, 0, FLORENCE_PATH_AUTO};
};

}  // namespace

std::unique_ptr<Operation> make_window_attention() { return std::make_unique<WindowAttention>(); }
std::unique_ptr<Operation> make_channel_attention() { return std::make_unique<ChannelAttention>(); }

}  // namespace florence::plugins
