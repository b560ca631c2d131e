// A graph, run by ONNX Runtime.
#pragma once

#include <string>
#include <vector>

#include "engine.h"
#include "onnxruntime.h"

struct SessionOptions {
  int intra_op_threads = 0;  // 0: as many as there are cores
  int inter_op_threads = 0;
  ExecutionMode mode = ORT_SEQUENTIAL;
  GraphOptimizationLevel level = ORT_ENABLE_ALL;
  int gpu_or_cpu = kCpu;
};

// What config.pbtxt says, by the names that NVIDIA's backend `onnxruntime` reads.
SessionOptions session_options(const Json& config);

// A graph that is loaded. ONNX Runtime's sessions are safe to run from several threads at once.
class Session : public Engine {
 public:
  Session(const std::string& path, const SessionOptions& options);
  ~Session() override;
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const std::vector<Described>& inputs() const override { return inputs_; }
  const std::vector<Described>& outputs() const override { return outputs_; }
  std::vector<Output> run(const std::vector<Input>& inputs, const std::vector<const char*>& names) const override;

 private:
  OrtSession* session_ = nullptr;
  std::vector<Described> inputs_, outputs_;
};
