// What TensorRT supplies to a plugin, in miniature: a logger that remembers, shape expressions, a loaded library.
#pragma once

#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <deque>
#include <stdexcept>
#include <string>

#define REQUIRE(condition)                                                                              \
  do {                                                                                                  \
    if (!(condition))                                                                                   \
      throw std::runtime_error(std::string(__FILE__ ":") + std::to_string(__LINE__) + ": " #condition); \
  } while (0)

namespace florence::test {

class Log final : public nvinfer1::ILogger, public nvinfer1::ILoggerFinder {
 public:
  void log(Severity, const char* message) noexcept override { text_ += std::string(message) + "\n"; }
  nvinfer1::ILogger* findLogger() override { return this; }

  // What was logged since the last call.
  std::string take() {
    std::string text;
    text.swap(text_);
    return text;
  }

 private:
  std::string text_;
};

// Evaluates at once: every expression is a constant.
class Expressions final : public nvinfer1::IExprBuilder, private nvinfer1::apiv::VExprBuilder {
 public:
  Expressions() { mImpl = this; }

  const nvinfer1::IDimensionExpr* constant(int64_t value) override { return &numbers_.emplace_back(value); }

  const nvinfer1::IDimensionExpr* operation(nvinfer1::DimensionOperation operation,
                                            const nvinfer1::IDimensionExpr& first,
                                            const nvinfer1::IDimensionExpr& second) override {
    REQUIRE(operation == nvinfer1::DimensionOperation::kFLOOR_DIV);
    return constant(first.getConstantValue() / second.getConstantValue());
  }

  const nvinfer1::IDimensionExpr* declareSizeTensor(int32_t, const nvinfer1::IDimensionExpr&,
                                                    const nvinfer1::IDimensionExpr&) override {
    throw std::runtime_error("no plugin has a size tensor");
  }

 private:
  class Number final : public nvinfer1::IDimensionExpr, private nvinfer1::apiv::VDimensionExpr {
   public:
    explicit Number(int64_t value) : value_(value) { mImpl = this; }
    bool isConstant() const override { return true; }
    int64_t getConstantValue() const override { return value_; }
    bool isSizeTensor() const override { return false; }

   private:
    int64_t value_;
  };

  std::deque<Number> numbers_;
};

// A shared library, open as long as this lives.
class Library {
 public:
  Library(const char* path, int flags) : handle_(dlopen(path, flags)) {
    if (handle_ == nullptr) throw std::runtime_error(dlerror());
  }
  ~Library() { dlclose(handle_); }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  template <class F>
  F* get(const char* name) const {
    auto* function = reinterpret_cast<F*>(dlsym(handle_, name));
    if (function == nullptr) throw std::runtime_error(dlerror());
    return function;
  }

 private:
  void* handle_;
};

}  // namespace florence::test
