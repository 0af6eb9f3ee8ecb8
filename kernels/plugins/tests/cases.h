// One row per way to call a plugin: attributes, tensors, the shapes it must refuse, and the twin that says what it
// computes.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace florence::test {

using Shape = std::vector<int64_t>;

struct Value {
  const char* name;
  bool whole;  // int32, else float32
  float number;
};

struct Input {
  Shape shape;
  std::vector<int32_t> numbers;  // of an int32 tensor; empty for one of the element type, which gets random numbers
};

struct Refusal {
  int input;
  Shape shape;
  const char* words;  // in the message
};

struct Case {
  std::string title;
  const char* plugin;
  std::vector<Value> attributes;
  std::vector<Input> inputs;
  Shape output;
  bool has_workspace;
  std::vector<Refusal> refusals;
  std::function<int(int dtype, const std::vector<const void*>& inputs, void* output)> twin;
};

std::vector<Case> cases();

}  // namespace florence::test
