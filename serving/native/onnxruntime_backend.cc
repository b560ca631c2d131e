// The backend `onnxruntime`: `<version>/model.onnx`, with the settings that NVIDIA's backend of that name reads.

#include "runtime.h"
#include "session.h"

bool has_gpu() { return onnxruntime_has_cuda(); }

std::unique_ptr<Engine> load_engine(const std::string& folder, const Json& config, int gpu_or_cpu) {
  SessionOptions options = session_options(config);
  options.gpu_or_cpu = gpu_or_cpu;
  const std::string file = config["default_model_filename"].text();
  return std::make_unique<Session>(folder + "/" + (file.empty() ? "model.onnx" : file), options);
}
