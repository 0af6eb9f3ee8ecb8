// Checks that every operation shares. The kernels' own checks in src/checks.cpp judge the dims that come out.
#include "operation.h"

#include <algorithm>
#include <string>

#include "checks.h"

namespace florence::plugins {
namespace {

using nvinfer1::DataType;
using nvinfer1::PluginTensorDesc;

template <class Numbers>
std::string text_of(const Numbers* numbers, size_t count) {
  std::string text = "[";
  for (size_t i = 0; i < count; ++i) text += (i ? ", " : "") + std::to_string(numbers[i]);
  return text + "]";
}

int check_port(const char* plugin, const Port& port, const PluginTensorDesc& tensor, DataType element) {
  const DataType needed = port.kind == Kind::kElement ? element : DataType::kINT32;
  if (dtype_of(element) < 0 || tensor.type != needed) {
    return refuse(FLORENCE_BAD_DTYPE,
                  "%s: %s has type %d, allowed are fp32, fp16 and bf16, the same for all, and int32 for indices",
                  plugin, port.name, int(tensor.type));
  }
  if (tensor.dims.nbDims != port.rank) {
    return refuse(FLORENCE_BAD_SHAPE, "%s: %s has %d dimensions, needed are %d", plugin, port.name, tensor.dims.nbDims,
                  port.rank);
  }
  return FLORENCE_OK;
}

}  // namespace

int dtype_of(DataType type) {
  switch (type) {
    case DataType::kFLOAT:
      return FLORENCE_F32;
    case DataType::kHALF:
      return FLORENCE_F16;
    case DataType::kBF16:
      return FLORENCE_BF16;
    default:
      return -1;
  }
}

int set_checked_shapes(Operation& operation, const PluginTensorDesc* inputs, int count) {
  const Signature& signature = operation.signature();
  if (count < signature.required || count > int(signature.inputs.size())) {
    return refuse(FLORENCE_BAD_SHAPE, "%s: %d inputs are given, allowed are %d to %zu", signature.name, count,
                  signature.required, signature.inputs.size());
  }
  for (int i = 0; i < count; ++i) {
    FLORENCE_TRY(check_port(signature.name, signature.inputs[i], inputs[i], inputs[0].type));
  }
  return operation.set_shapes(inputs, count);
}

int expect_dims(const Signature& signature, const PluginTensorDesc* inputs, int index,
                std::initializer_list<int64_t> needed) {
  const nvinfer1::Dims& given = inputs[index].dims;
  if (std::equal(needed.begin(), needed.end(), given.d)) return FLORENCE_OK;
  return refuse(FLORENCE_BAD_SHAPE, "%s: %s is %s, needed is %s", signature.name, signature.inputs[index].name,
                text_of(given.d, given.nbDims).c_str(), text_of(needed.begin(), needed.size()).c_str());
}

}  // namespace florence::plugins
