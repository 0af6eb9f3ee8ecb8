// Errors go to TensorRT's logger, the only channel by which a plugin can say more than a number.
#pragma once

#include <NvInferRuntime.h>

#include <exception>

namespace florence::plugins {

void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;
void log_error(const char* message) noexcept;

// Logs what florence_last_error() tells, unless `status` is FLORENCE_OK. Returns `status`.
int report(int status) noexcept;

// TensorRT's methods are noexcept: runs f, and turns an exception into a logged error and `failed`.
template <class R, class F>
R guarded(R failed, F f) noexcept {
  try {
    return f();
  } catch (const std::exception& error) {
    log_error(error.what());
    return failed;
  }
}

}  // namespace florence::plugins
