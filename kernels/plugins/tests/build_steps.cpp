// What a builder asks of a plugin: types, shapes, formats, workspace.
#include "steps.h"

namespace florence::test {

using namespace nvinfer1;

Dims dims_of(const Shape& shape) {
  Dims dims{};
  dims.nbDims = int32_t(shape.size());
  std::copy(shape.begin(), shape.end(), dims.d);
  return dims;
}

namespace {

PluginTensorDesc desc_of(const Shape& shape, DataType type) {
  PluginTensorDesc desc{};
  desc.dims = dims_of(shape);
  desc.type = type;
  desc.format = TensorFormat::kLINEAR;
  return desc;
}

}  // namespace

Tensors describe(const Case& given, DataType element) {
  Tensors tensors;
  for (const Input& input : given.inputs) {
    tensors.inputs.push_back(desc_of(input.shape, input.numbers.empty() ? element : DataType::kINT32));
  }
  tensors.output = desc_of(given.output, element);
  return tensors;
}

std::vector<DynamicPluginTensorDesc> dynamic(const Tensors& tensors) {
  std::vector<DynamicPluginTensorDesc> result;
  for (const PluginTensorDesc& desc : tensors.inputs) {
    result.push_back({desc, desc.dims, desc.dims, desc.dims});
    result.back().desc.dims.d[0] = -1;
  }
  result.push_back({tensors.output, tensors.output.dims, tensors.output.dims, tensors.output.dims});
  return result;
}

void answers_the_builder(const Context& context, const Case& given, IPluginV3& plugin, Element element) {
  auto& build = build_of(plugin);
  const Tensors tensors = describe(given, element.type);
  const int count = tensors.count();
  std::vector<DynamicPluginTensorDesc> io = dynamic(tensors);
  REQUIRE(build.getNbOutputs() == 1);

  std::vector<DataType> types;
  for (const PluginTensorDesc& desc : tensors.inputs) types.push_back(desc.type);
  DataType output_type{};
  REQUIRE(build.getOutputDataTypes(&output_type, 1, types.data(), count) == 0 && output_type == element.type);

  Expressions expressions;
  std::vector<DimsExprs> shapes(count);
  for (int i = 0; i < count; ++i) {
    shapes[i].nbDims = tensors.inputs[i].dims.nbDims;
    for (int d = 0; d < shapes[i].nbDims; ++d) shapes[i].d[d] = expressions.constant(tensors.inputs[i].dims.d[d]);
  }
  DimsExprs output{};
  REQUIRE(build.getOutputShapes(shapes.data(), count, nullptr, 0, &output, 1, expressions) == 0);
  REQUIRE(output.nbDims == int(given.output.size()));
  for (int d = 0; d < output.nbDims; ++d) REQUIRE(output.d[d]->getConstantValue() == given.output[d]);
  REQUIRE(build.getOutputShapes(shapes.data(), 0, nullptr, 0, &output, 1, expressions) != 0);
  --shapes[0].nbDims;
  REQUIRE(build.getOutputShapes(shapes.data(), count, nullptr, 0, &output, 1, expressions) != 0);
  REQUIRE(contains(context.log.take(), "dimensions, needed are"));

  REQUIRE(build.configurePlugin(io.data(), count, io.data() + count, 1) == 0);
  REQUIRE((build.getWorkspaceSize(io.data(), count, io.data() + count, 1) > 0) == given.has_workspace);
  REQUIRE(build.getNbTactics() == 0);
  io[0].max.d[io[0].max.nbDims - 1] = 7;
  REQUIRE(build.configurePlugin(io.data(), count, io.data() + count, 1) != 0);
  REQUIRE(!context.log.take().empty());
}

void accepts_its_formats_only(const Case& given, IPluginV3& plugin) {
  auto& build = build_of(plugin);
  const int count = int(given.inputs.size());
  const auto accepted = [&](const std::vector<DynamicPluginTensorDesc>& io) {
    for (int i = 0; i <= count; ++i) {
      if (!build.supportsFormatCombination(i, io.data(), count, 1)) return false;
    }
    return true;
  };
  for (DataType type : {DataType::kFLOAT, DataType::kHALF, DataType::kBF16}) {
    const std::vector<DynamicPluginTensorDesc> io = dynamic(describe(given, type));
    REQUIRE(accepted(io));
    for (int i = 0; i <= count; ++i) {
      auto other = io;
      other[i].desc.format = TensorFormat::kHWC8;
      REQUIRE(!build.supportsFormatCombination(i, other.data(), count, 1));
      other = io;
      other[i].desc.type = DataType::kINT8;
      REQUIRE(!build.supportsFormatCombination(i, other.data(), count, 1));
      if (i == 0) continue;
      other[i].desc.type = type == DataType::kFLOAT ? DataType::kHALF : DataType::kFLOAT;
      REQUIRE(!build.supportsFormatCombination(i, other.data(), count, 1));
    }
  }
  for (DataType type : {DataType::kINT8, DataType::kINT32, DataType::kINT64, DataType::kBOOL, DataType::kFP8}) {
    REQUIRE(!accepted(dynamic(describe(given, type))));
  }
}

}  // namespace florence::test
