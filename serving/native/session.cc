#include "session.h"

#include <cstring>
#include <string_view>

#include "runtime.h"
#include "strings.h"

namespace {

Owned<OrtValue> owned(OrtValue* value) { return {value, api().ReleaseValue}; }

struct Pair {
  ONNXTensorElementDataType onnx;
  TRITONSERVER_DataType triton;
};
constexpr Pair kTypes[] = {
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, TRITONSERVER_TYPE_FP32},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, TRITONSERVER_TYPE_INT64},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING, TRITONSERVER_TYPE_BYTES},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, TRITONSERVER_TYPE_FP64},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, TRITONSERVER_TYPE_FP16},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16, TRITONSERVER_TYPE_BF16},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL, TRITONSERVER_TYPE_BOOL},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, TRITONSERVER_TYPE_INT32},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16, TRITONSERVER_TYPE_INT16},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, TRITONSERVER_TYPE_INT8},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64, TRITONSERVER_TYPE_UINT64},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32, TRITONSERVER_TYPE_UINT32},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16, TRITONSERVER_TYPE_UINT16},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, TRITONSERVER_TYPE_UINT8},
};

TRITONSERVER_DataType to_triton(ONNXTensorElementDataType type) {
  for (const Pair& pair : kTypes) {
    if (pair.onnx == type) return pair.triton;
  }
  return TRITONSERVER_TYPE_INVALID;
}

ONNXTensorElementDataType to_onnx(TRITONSERVER_DataType type) {
  for (const Pair& pair : kTypes) {
    if (pair.triton == type) return pair.onnx;
  }
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

// Type and dims of a tensor, into `type` and `dims`.
void describe(const OrtTensorTypeAndShapeInfo* info, TRITONSERVER_DataType& type, std::vector<int64_t>& dims) {
  ONNXTensorElementDataType found;
  size_t rank = 0;
  check(api().GetTensorElementType(info, &found));
  check(api().GetDimensionsCount(info, &rank));
  dims.resize(rank);
  check(api().GetDimensions(info, dims.data(), rank));
  type = to_triton(found);
}

std::vector<Described> described(const OrtSession* session, decltype(OrtApi::SessionGetInputCount) count,
                                 decltype(OrtApi::SessionGetInputName) name,
                                 decltype(OrtApi::SessionGetInputTypeInfo) type) {
  size_t size = 0;
  check(count(session, &size));
  std::vector<Described> found(size);
  for (size_t at = 0; at < size; ++at) {
    char* text = nullptr;
    check(name(session, at, runtime().allocator, &text));
    found[at].name = text;
    check(api().AllocatorFree(runtime().allocator, text));
    OrtTypeInfo* info = nullptr;
    check(type(session, at, &info));
    const Owned<OrtTypeInfo> kept(info, api().ReleaseTypeInfo);
    const OrtTensorTypeAndShapeInfo* tensor = nullptr;
    check(api().CastTypeInfoToTensorInfo(info, &tensor));
    if (tensor != nullptr) describe(tensor, found[at].type, found[at].dims);  // else a sequence or a map: no tensor
  }
  return found;
}

Owned<OrtValue> string_tensor(const Input& input) {
  Strings strings(input);
  OrtValue* made = nullptr;
  check(api().CreateTensorAsOrtValue(runtime().allocator, input.shape.data(), input.shape.size(),
                                     ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING, &made));
  Owned<OrtValue> value = owned(made);
  std::string_view text;
  std::string repaired;
  for (size_t at = 0; strings.next(text); ++at) {
    if (!is_utf8(text)) text = repaired = with_replacements(text);
    char* bytes = nullptr;
    check(api().GetResizedStringTensorElementBuffer(made, at, text.size(), &bytes));
    if (!text.empty()) std::memcpy(bytes, text.data(), text.size());
  }
  return value;
}

// Over the caller's memory, without a copy, but for strings.
Owned<OrtValue> to_value(const Input& input) {
  if (input.type == TRITONSERVER_TYPE_BYTES) return string_tensor(input);
  OrtValue* made = nullptr;
  check(api().CreateTensorWithDataAsOrtValue(runtime().cpu, const_cast<char*>(input.data), input.size,
                                             input.shape.data(), input.shape.size(), to_onnx(input.type), &made));
  return owned(made);
}

// The strings of a tensor as Triton sends them.
void join_strings(const OrtValue* value, Output& output) {
  size_t size = 0, count = 1;
  for (const int64_t dim : output.shape) count *= static_cast<size_t>(dim);
  check(api().GetStringTensorDataLength(value, &size));
  std::vector<char> bytes(size + 1);
  std::vector<size_t> begins(count + 1);
  check(api().GetStringTensorContent(value, bytes.data(), size, begins.data(), count));
  begins[count] = size;
  auto joined = std::make_shared<std::string>();
  joined->reserve(size + count * sizeof(uint32_t));
  output.ends.reserve(count);
  for (size_t at = 0; at < count; ++at) {
    const uint32_t length = static_cast<uint32_t>(begins[at + 1] - begins[at]);
    joined->append(reinterpret_cast<const char*>(&length), sizeof(length));
    joined->append(bytes.data() + begins[at], length);
    output.ends.push_back(joined->size());
  }
  output.data = joined->data();
  output.size = joined->size();
  output.owner = std::move(joined);
}

Output to_output(OrtValue* made, const char* name) {
  std::shared_ptr<OrtValue> value(made, api().ReleaseValue);
  Output output{};
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api().GetTensorTypeAndShape(made, &info));
  const Owned<OrtTensorTypeAndShapeInfo> kept(info, api().ReleaseTensorTypeAndShapeInfo);
  describe(info, output.type, output.shape);
  if (output.type == TRITONSERVER_TYPE_INVALID) {
    throw Failure{TRITONSERVER_ERROR_UNSUPPORTED, std::string("output '") + name + "' is of a type that Triton lacks"};
  }
  if (output.type == TRITONSERVER_TYPE_BYTES) {
    join_strings(made, output);
    return output;
  }
  void* data = nullptr;
  check(api().GetTensorMutableData(made, &data));
  output.data = static_cast<const char*>(data);
  output.size = element_size(output.type);
  for (const int64_t dim : output.shape) output.size *= static_cast<size_t>(dim);
  output.owner = std::move(value);
  return output;
}

void use_gpu(OrtSessionOptions* options, int gpu) {
  OrtCUDAProviderOptionsV2* made = nullptr;
  check(api().CreateCUDAProviderOptions(&made));
  const Owned<OrtCUDAProviderOptionsV2> cuda(made, api().ReleaseCUDAProviderOptions);
  const std::string device = std::to_string(gpu);
  const char *key = "device_id", *value = device.c_str();
  check(api().UpdateCUDAProviderOptions(made, &key, &value, 1));
  check(api().SessionOptionsAppendExecutionProvider_CUDA_V2(options, made));
}

}  // namespace

SessionOptions session_options(const Json& config) {
  const auto parameter = [&config](std::string_view name) {
    return static_cast<int>(config["parameters"][name]["string_value"].number());
  };
  SessionOptions options;
  options.intra_op_threads = parameter("intra_op_thread_count");
  options.inter_op_threads = parameter("inter_op_thread_count");
  if (parameter("execution_mode") == 1) options.mode = ORT_PARALLEL;
  switch (config["optimization"]["graph"]["level"].number()) {  // everything is on without
    case -1: options.level = ORT_ENABLE_BASIC; break;
    case 1: options.level = ORT_ENABLE_EXTENDED; break;
    case 2: options.level = ORT_DISABLE_ALL; break;
  }
  return options;
}

Session::Session(const std::string& path, const SessionOptions& wanted) {
  OrtSessionOptions* options = nullptr;
  check(api().CreateSessionOptions(&options));
  const Owned<OrtSessionOptions> kept(options, api().ReleaseSessionOptions);
  check(api().SetSessionLogSeverityLevel(options, ORT_LOGGING_LEVEL_ERROR));
  check(api().SetIntraOpNumThreads(options, wanted.intra_op_threads));
  check(api().SetInterOpNumThreads(options, wanted.inter_op_threads));
  check(api().SetSessionExecutionMode(options, wanted.mode));
  check(api().SetSessionGraphOptimizationLevel(options, wanted.level));
  if (wanted.gpu_or_cpu != kCpu) use_gpu(options, wanted.gpu_or_cpu);
  check(api().CreateSession(runtime().env, path.c_str(), options, &session_));
  Owned<OrtSession> loaded(session_, api().ReleaseSession);
  inputs_ = described(session_, api().SessionGetInputCount, api().SessionGetInputName, api().SessionGetInputTypeInfo);
  outputs_ =
      described(session_, api().SessionGetOutputCount, api().SessionGetOutputName, api().SessionGetOutputTypeInfo);
  loaded.release();
}

Session::~Session() { api().ReleaseSession(session_); }

std::vector<Output> Session::run(const std::vector<Input>& inputs, const std::vector<const char*>& names) const {
  std::vector<const char*> given;
  std::vector<Owned<OrtValue>> kept;
  std::vector<const OrtValue*> values;
  for (const Input& input : inputs) {
    given.push_back(input.name);
    kept.push_back(to_value(input));
    values.push_back(kept.back().get());
  }
  std::vector<OrtValue*> made(names.size(), nullptr);
  check(api().Run(session_, nullptr, given.data(), values.data(), values.size(), names.data(), names.size(),
                  made.data()));
  std::vector<Owned<OrtValue>> results;
  results.reserve(made.size());
  for (OrtValue* value : made) results.push_back(owned(value));
  std::vector<Output> outputs;
  outputs.reserve(made.size());
  for (size_t at = 0; at < made.size(); ++at) outputs.push_back(to_output(results[at].release(), names[at]));
  return outputs;
}
