// What answers: a model loaded from the folder of a version, and the tensors that go in and out of it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "json.h"
#include "triton.h"

// Thrown inside a backend, and told to the server as its error. INVALID_ARG blames the request, all else the model.
struct Failure {
  TRITONSERVER_Error_Code code;
  std::string text;
};

// An input or output as the model describes it; a dim of -1 is free. Types that Triton does not have are INVALID.
struct Described {
  std::string name;
  TRITONSERVER_DataType type;
  std::vector<int64_t> dims;
};

// A tensor on its way in, in memory that the caller keeps. Strings are as Triton sends them: length, bytes, length, ...
struct Input {
  const char* name;
  TRITONSERVER_DataType type;
  std::vector<int64_t> shape;
  const char* data;
  size_t size;
};

// A tensor on its way out, in memory that `owner` keeps. `ends` says where each string ends; numbers have none.
struct Output {
  TRITONSERVER_DataType type;
  std::vector<int64_t> shape;
  const char* data;
  size_t size;
  std::vector<size_t> ends;
  std::shared_ptr<const void> owner;
};

class Engine {
 public:
  virtual ~Engine() = default;
  virtual const std::vector<Described>& inputs() const = 0;
  virtual const std::vector<Described>& outputs() const = 0;
  // One output for each name. Safe to call from several threads. Throws Failure.
  virtual std::vector<Output> run(const std::vector<Input>& inputs, const std::vector<const char*>& names) const = 0;
};

constexpr int kCpu = -1;

// The two functions that make a backend; each backend has its own. Both throw Failure.
std::unique_ptr<Engine> load_engine(const std::string& folder, const Json& config, int gpu_or_cpu);
bool has_gpu();

// Bytes of an element; 0 for strings.
inline size_t element_size(TRITONSERVER_DataType type) {
  static constexpr size_t kSizes[] = {0, 1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 0, 2};
  return kSizes[type];
}

// As config.pbtxt spells it.
inline const char* type_name(TRITONSERVER_DataType type) {
  static constexpr const char* kNames[] = {"TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32",
                                           "TYPE_UINT64",  "TYPE_INT8", "TYPE_INT16", "TYPE_INT32",  "TYPE_INT64",
                                           "TYPE_FP16",    "TYPE_FP32", "TYPE_FP64",  "TYPE_STRING", "TYPE_BF16"};
  return kNames[type];
}
