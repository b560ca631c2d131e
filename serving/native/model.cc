#include "model.h"

#include <algorithm>

namespace {

std::string read_config(TRITONBACKEND_Model* model) {
  TRITONSERVER_Message* message = nullptr;
  check(TRITONBACKEND_ModelConfig(model, 1, &message));
  const std::unique_ptr<TRITONSERVER_Message, TRITONSERVER_Error* (*)(TRITONSERVER_Message*)> kept(
      message, TRITONSERVER_MessageDelete);
  const char* base = nullptr;
  size_t size = 0;
  check(TRITONSERVER_MessageSerializeToJson(message, &base, &size));
  return {base, size};
}

// Names are those of a graph: what JSON would not have as it stands is spelled out.
std::string quoted(const std::string& text) {
  std::string found = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      found += {'\\', c};
    } else if (static_cast<unsigned char>(c) < 0x20) {
      static constexpr char kHex[] = "0123456789abcdef";
      found += {'\\', 'u', '0', '0', kHex[c >> 4], kHex[c & 15]};
    } else {
      found += c;
    }
  }
  return found + '"';
}

// An input or output of the graph in the terms of config.pbtxt.
std::string declaration(const Described& described, bool batched) {
  std::string dims;
  for (size_t at = batched ? 1 : 0; at < described.dims.size(); ++at) {
    dims += (dims.empty() ? "" : ",") + std::to_string(described.dims[at]);
  }
  // one value a row, such as a label: Triton knows no empty dims
  const std::string shape = dims.empty() ? "\"dims\":[1],\"reshape\":{\"shape\":[]}" : "\"dims\":[" + dims + "]";
  return "{\"name\":" + quoted(described.name) + ",\"data_type\":\"" + type_name(described.type) + "\"," + shape + "}";
}

// What is declared, and after it what the graph has besides.
std::string declarations(const Json& declared, const std::vector<Described>& graph, bool batched) {
  std::string found;
  std::vector<std::string> names;
  for (const Json& item : declared.items()) {
    names.push_back(item["name"].text());
    found += (found.empty() ? "" : ",") + std::string(item.raw());
  }
  for (const Described& one : graph) {
    if (std::find(names.begin(), names.end(), one.name) != names.end()) continue;
    found += (found.empty() ? "" : ",") + declaration(one, batched);
  }
  return "[" + found + "]";
}

void match_one(const char* kind, const Json& declared, const std::vector<Described>& graph) {
  const std::string name = declared["name"].text(), type = declared["data_type"].text();
  const auto found = std::find_if(graph.begin(), graph.end(), [&](const Described& one) { return one.name == name; });
  const std::string what = std::string(kind) + " '" + name + "'";
  if (found == graph.end()) {
    std::string names;
    for (const Described& one : graph) names += (names.empty() ? "" : ", ") + one.name;
    throw Failure{TRITONSERVER_ERROR_INVALID_ARG, what + " is not in the model, which has " + names};
  }
  if (type != type_name(found->type)) {
    throw Failure{TRITONSERVER_ERROR_INVALID_ARG, what + " is declared as " + type + ", and is " +
                                                      (found->type == TRITONSERVER_TYPE_INVALID
                                                           ? std::string("of a type that Triton lacks")
                                                           : std::string(type_name(found->type)) + " in the model")};
  }
}

}  // namespace

void check(TRITONSERVER_Error* error) {
  if (error == nullptr) return;
  const Failure failure{TRITONSERVER_ErrorCode(error), TRITONSERVER_ErrorMessage(error)};
  TRITONSERVER_ErrorDelete(error);
  throw failure;
}

void warn(const std::string& text) {
  TRITONSERVER_ErrorDelete(TRITONSERVER_LogMessage(TRITONSERVER_LOG_WARN, __FILE__, __LINE__, text.c_str()));
}

Model::Model(TRITONBACKEND_Model* model) : text_(read_config(model)) {
  TRITONBACKEND_ArtifactType type;
  const char* location = nullptr;
  uint64_t version = 0;
  check(TRITONBACKEND_ModelRepository(model, &type, &location));
  check(TRITONBACKEND_ModelVersion(model, &version));
  folder_ = std::string(location) + "/" + std::to_string(version);
  batched_ = config()["max_batch_size"].number() > 0;
  bool may_complete = false;
  check(TRITONBACKEND_ModelAutoCompleteConfig(model, &may_complete));
  if (may_complete && (config()["input"].items().empty() || config()["output"].items().empty())) {
    complete(model);
    text_ = read_config(model);
  }
  for (const Json& item : config()["output"].items()) outputs_.push_back(item["name"].text());
  if (!config()["optimization"]["execution_accelerators"].members().empty()) {
    throw Failure{TRITONSERVER_ERROR_UNSUPPORTED, "this backend has no execution_accelerators, such as TensorRT"};
  }
}

// Fill inputs and outputs that config.pbtxt leaves out, from the graph.
void Model::complete(TRITONBACKEND_Model* model) const {
  const std::unique_ptr<Engine> engine = load_engine(folder_, config(), kCpu);
  std::string completed;
  for (const auto& [key, value] : config().members()) {
    if (key == "input" || key == "output") continue;
    completed += quoted(key) + ":" + std::string(value.raw()) + ",";
  }
  completed = "{" + completed + "\"input\":" + declarations(config()["input"], engine->inputs(), batched_) +
              ",\"output\":" + declarations(config()["output"], engine->outputs(), batched_) + "}";
  TRITONSERVER_Message* message = nullptr;
  check(TRITONSERVER_MessageNewFromSerializedJson(&message, completed.data(), completed.size()));
  TRITONSERVER_Error* error = TRITONBACKEND_ModelSetConfig(model, 1, message);
  TRITONSERVER_ErrorDelete(TRITONSERVER_MessageDelete(message));
  check(error);
}

std::shared_ptr<const Engine> Model::engine(int gpu_or_cpu) {
  const std::lock_guard<std::mutex> held(loading_);
  if (gpu_or_cpu != kCpu && !has_gpu()) {
    if (!warned_) warn("this backend has no CUDA: the instance answers from the CPU");
    warned_ = true;
    gpu_or_cpu = kCpu;
  }
  std::shared_ptr<const Engine> found = engines_[gpu_or_cpu].lock();
  if (found == nullptr) {
    found = load_engine(folder_, config(), gpu_or_cpu);
    match(*found);
    engines_[gpu_or_cpu] = found;
  }
  return found;
}

// A configuration that is not the graph's would fail every request: it is refused instead.
void Model::match(const Engine& engine) const {
  for (const Json& item : config()["input"].items()) match_one("input", item, engine.inputs());
  for (const Json& item : config()["output"].items()) match_one("output", item, engine.outputs());
}
