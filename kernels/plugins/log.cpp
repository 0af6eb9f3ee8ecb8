#include "log.h"

#include <atomic>
#include <cstdio>

#include "florence_kernels.h"

namespace florence::plugins {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept { logger_finder = finder; }

void log_error(const char* message) noexcept {
  nvinfer1::ILoggerFinder* finder = logger_finder;
  nvinfer1::ILogger* logger = finder == nullptr ? nullptr : finder->findLogger();
  if (logger != nullptr) logger->log(nvinfer1::ILogger::Severity::kERROR, message);
}

int report(int status) noexcept {
  if (status == FLORENCE_OK) return status;
  // A CUDA error has a text for its status; a refusal has its own words.
  char text[320];
  const char* detail = status < FLORENCE_CUDA_ERROR ? florence_last_error() : "";
  std::snprintf(text, sizeof text, "florence plugin: %s%s%s", florence_status_string(status), *detail ? ": " : "",
                detail);
  log_error(text);
  return status;
}

}  // namespace florence::plugins
