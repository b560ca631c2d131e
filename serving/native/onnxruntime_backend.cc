// The backend `onnxruntime`: `<version>/model.onnx`, with the settings that NVIDIA's backend of that name reads.

#include "session.h"

bool has_gpu() { return onnxruntime_has_cuda(); }

std::unique_ptr<Engine> load_engine(const std::string& folder, const Json& config, int gpu_or_cpu) {
  const auto parameter = [&config](std::string_view name) {
    return static_cast<int>(config["parameters"][name]["string_value"].number());
  };
  SessionOptions options;
  options.gpu_or_cpu = gpu_or_cpu;
  options.intra_op_threads = parameter("intra_op_thread_count");
  options.inter_op_threads = parameter("inter_op_thread_count");
  if (parameter("execution_mode") == 1) options.mode = ORT_PARALLEL;
  switch (config["optimization"]["graph"]["level"].number()) {  // everything is on without
    case -1: options.level = ORT_ENABLE_BASIC; break;
    case 1: options.level = ORT_ENABLE_EXTENDED; break;
    case 2: options.level = ORT_DISABLE_ALL; break;
  }
  std::string file = config["default_model_filename"].text();
  if (file.empty()) file = "model.onnx";
  return std::make_unique<Session>(folder + "/" + file, options);
}
