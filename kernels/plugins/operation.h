// What one kernel has to say about itself so that Plugin and Creator can show it to TensorRT: tensors, attributes, dims
// from shapes, launch. Operations know TensorRT's types but none of its plugin classes, and compute nothing.
#pragma once

#include <NvInferRuntime.h>

#include <initializer_list>
#include <memory>
#include <vector>

namespace florence::plugins {

// kElement: fp32, fp16 or bf16, one type for all of them and for the output.
enum class Kind { kElement, kInt32 };

struct Port {
  const char* name;
  Kind kind;
  int rank;
};

struct Signature {
  const char* name;  // of the plugin and of the ONNX node
  std::vector<Port> inputs;
  int required;  // inputs from here on may be left out, from the back
};

// `value` points into the operation: the same row reads the attribute, serialises it and names it in the timing cache.
struct Attribute {
  const char* name;
  nvinfer1::PluginFieldType type;  // kINT32 or kFLOAT32, one value
  void* value;
  bool required;
};

class Operation {
 public:
  virtual ~Operation() = default;
  virtual std::unique_ptr<Operation> clone() const = 0;

  virtual const Signature& signature() const = 0;
  virtual std::vector<Attribute> attributes() = 0;

  // Fills in the one output's dimensions from those of the inputs; the ranks are right.
  virtual void output_shape(const nvinfer1::DimsExprs* inputs, nvinfer1::IExprBuilder& build,
                            nvinfer1::DimsExprs* output) const = 0;

  // Takes the shapes of the calls to come; number, types and ranks are right. Returns a florence_status.
  virtual int set_shapes(const nvinfer1::PluginTensorDesc* inputs, int count) = 0;

  // Bytes of scratch memory for the shapes set.
  virtual size_t workspace() const { return 0; }

  virtual int launch(const void* const* inputs, void* output, void* workspace, void* stream) const = 0;
};

// The florence_dtype of a type, -1 for one that no kernel takes.
int dtype_of(nvinfer1::DataType type);

// Refuses a number or ranks or types of inputs that do not fit the signature, then calls set_shapes.
int set_checked_shapes(Operation& operation, const nvinfer1::PluginTensorDesc* inputs, int count);

// Refuses unless tensor `index` has the dimensions `needed`.
int expect_dims(const Signature& signature, const nvinfer1::PluginTensorDesc* inputs, int index,
                std::initializer_list<int64_t> needed);

std::unique_ptr<Operation> make_window_attention();
std::unique_ptr<Operation> make_channel_attention();
std::unique_ptr<Operation> make_self_attention();
std::unique_ptr<Operation> make_cross_attention();

}  // namespace florence::plugins
