#include "instance.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string_view>

// Of a batch. Where its requests are run one by one, the first begins the computing, and the last ends it.
struct Instance::Times {
  uint64_t start = now(), compute_start = 0, compute_end = 0;

  static uint64_t now() {  // the clock of Triton's own times
    return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
  }
};

namespace {

// What cannot be told to anybody any more.
void log_error(TRITONSERVER_Error* error) {
  if (error == nullptr) return;
  warn(TRITONSERVER_ErrorMessage(error));
  TRITONSERVER_ErrorDelete(error);
}

bool wants(TRITONBACKEND_Request* request, std::string_view output) {
  uint32_t count = 0;
  check(TRITONBACKEND_RequestOutputCount(request, &count));
  for (uint32_t at = 0; at < count; ++at) {
    const char* name = nullptr;
    check(TRITONBACKEND_RequestOutputName(request, at, &name));
    if (output == name) return true;
  }
  return false;
}

bool is_cancelled(TRITONBACKEND_Request* request) {
  bool cancelled = false;
  TRITONSERVER_ErrorDelete(TRITONBACKEND_RequestIsCancelled(request, &cancelled));
  return cancelled;
}

// An input of one request as it lies in the server, in so many buffers.
struct Part {
  TRITONBACKEND_Input* handle = nullptr;
  const char* name = nullptr;
  TRITONSERVER_DataType type = TRITONSERVER_TYPE_INVALID;
  const int64_t* shape = nullptr;
  uint32_t rank = 0, buffers = 0;
  uint64_t size = 0;

  explicit Part(TRITONBACKEND_Input* input) : handle(input) {
    check(TRITONBACKEND_InputProperties(handle, &name, &type, &shape, &rank, &size, &buffers));
  }

  std::string_view buffer(uint32_t index) const {
    const void* base = nullptr;
    uint64_t length = 0;
    TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
    int64_t memory_id = 0;
    check(TRITONBACKEND_InputBuffer(handle, index, &base, &length, &memory, &memory_id));
    if (memory == TRITONSERVER_MEMORY_GPU) {
      throw Failure{TRITONSERVER_ERROR_UNSUPPORTED, std::string("input '") + name + "' lies in the memory of a GPU"};
    }
    return {static_cast<const char*>(base), length};
  }
};

Part part(TRITONBACKEND_Request* request, uint32_t index) {
  TRITONBACKEND_Input* input = nullptr;
  check(TRITONBACKEND_RequestInputByIndex(request, index, &input));
  return Part(input);
}

Part part(TRITONBACKEND_Request* request, const char* name) {
  TRITONBACKEND_Input* input = nullptr;
  check(TRITONBACKEND_RequestInput(request, name, &input));
  return Part(input);
}

uint32_t input_count(TRITONBACKEND_Request* request) {
  uint32_t count = 0;
  check(TRITONBACKEND_RequestInputCount(request, &count));
  return count;
}

// Compiled loops may assume that a number lies at a multiple of its size; what came over the network need not.
bool is_aligned(const char* data, TRITONSERVER_DataType type) {
  return reinterpret_cast<uintptr_t>(data) % std::max<size_t>(element_size(type), 1) == 0;
}

// The bytes of some rows of an output.
std::string_view slice(const Output& output, const Rows& rows) {
  const size_t all = static_cast<size_t>(output.shape[0]);
  if (all == 0) return {};
  if (output.type != TRITONSERVER_TYPE_BYTES) {
    const size_t width = output.size / all;
    return {output.data + rows.begin * width, rows.count * width};
  }
  const size_t width = output.ends.size() / all;
  const auto end = [&](size_t row) { return row * width == 0 ? 0 : output.ends[row * width - 1]; };
  return {output.data + end(rows.begin), end(rows.begin + rows.count) - end(rows.begin)};
}

void fill(TRITONBACKEND_Response* response, const char* name, const Output& output, std::optional<Rows> rows) {
  std::string_view bytes(output.data, output.size);
  std::vector<int64_t> shape = output.shape;
  if (rows) {
    bytes = slice(output, *rows);
    shape[0] = static_cast<int64_t>(rows->count);
  }
  TRITONBACKEND_Output* made = nullptr;
  const auto rank = static_cast<uint32_t>(shape.size());
  check(TRITONBACKEND_ResponseOutput(response, &made, name, output.type, shape.data(), rank));
  void* buffer = nullptr;
  TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
  int64_t memory_id = 0;
  check(TRITONBACKEND_OutputBuffer(made, &buffer, bytes.size(), &memory, &memory_id));
  if (memory == TRITONSERVER_MEMORY_GPU) {
    throw Failure{TRITONSERVER_ERROR_UNSUPPORTED, std::string("output '") + name + "' is wanted in a GPU's memory"};
  }
  if (!bytes.empty()) std::memcpy(buffer, bytes.data(), bytes.size());
}

}  // namespace

Instance::Instance(Model& model, TRITONBACKEND_ModelInstance* instance) : model_(model), instance_(instance) {
  TRITONSERVER_InstanceGroupKind kind;
  int32_t device = 0;
  check(TRITONBACKEND_ModelInstanceKind(instance, &kind));
  check(TRITONBACKEND_ModelInstanceDeviceId(instance, &device));
  engine_ = model.engine(kind == TRITONSERVER_INSTANCEGROUPKIND_GPU ? device : kCpu);
}

void Instance::execute(TRITONBACKEND_Request** requests, uint32_t count) {
  Times times;
  Requests waiting;
  size_t rows = 0;
  for (uint32_t at = 0; at < count; ++at) {
    try {
      if (is_cancelled(requests[at])) throw Failure{TRITONSERVER_ERROR_CANCELLED, "the client has cancelled it"};
      const Part first = part(requests[at], 0u);
      waiting.push_back({requests[at], model_.batched() && first.rank > 0 ? static_cast<size_t>(first.shape[0]) : 1});
      rows += waiting.back().rows;
    } catch (const Failure& failure) {
      refuse(requests[at], failure);
    }
  }
  if (waiting.empty()) return;
  if (waiting.size() == 1 || !model_.batched() || try_answer(waiting, times)) {
    for (const Request& request : waiting) {
      if (const std::optional<Failure> failure = try_answer({request}, times)) refuse(request.handle, *failure);
    }
  }
  if (times.compute_end == 0) return;  // nothing was computed
  log_error(TRITONBACKEND_ModelInstanceReportBatchStatistics(instance_, rows, times.start, times.compute_start,
                                                             times.compute_end, Times::now()));
}

std::optional<Failure> Instance::try_answer(const Requests& requests, Times& times) {
  try {
    answer(requests, times);
    return std::nullopt;
  } catch (const Failure& failure) {
    return failure;
  } catch (const std::exception& error) {  // no memory is left
    return Failure{TRITONSERVER_ERROR_INTERNAL, error.what()};
  }
}

// Throws as long as nobody has been answered; from then on each request is answered and released, whatever happens.
void Instance::answer(const Requests& requests, Times& times) {
  const bool together = requests.size() > 1;
  const std::vector<Input> inputs = gather(requests);
  const std::vector<const char*> names = wanted(requests);
  if (times.compute_start == 0) times.compute_start = Times::now();
  const std::vector<Output> outputs = engine_->run(inputs, names);
  times.compute_end = Times::now();
  for (const Output& output : outputs) {
    if (together && (output.shape.empty() || output.shape[0] != inputs[0].shape[0])) {
      throw Failure{TRITONSERVER_ERROR_INTERNAL, "an output does not have a row for each row of the batch"};
    }
  }
  size_t begin = 0;
  for (const Request& request : requests) {
    const std::optional<Rows> own = together ? std::optional<Rows>({begin, request.rows}) : std::nullopt;
    reply(request.handle, names, outputs, own, times);
    begin += request.rows;
  }
}

// Inputs of the requests, one below the other. What lies in one piece already is not copied.
std::vector<Input> Instance::gather(const Requests& requests) {
  const uint32_t count = input_count(requests[0].handle);
  for (const Request& request : requests) {
    if (input_count(request.handle) != count) throw Failure{TRITONSERVER_ERROR_INVALID_ARG, "they have other inputs"};
  }
  if (buffers_.size() < count) buffers_.resize(count);
  std::vector<Input> inputs;
  inputs.reserve(count);
  for (uint32_t at = 0; at < count; ++at) inputs.push_back(gather_one(requests, at));
  return inputs;
}

Input Instance::gather_one(const Requests& requests, uint32_t index) {
  const Part first = part(requests[0].handle, index);
  Input input{first.name, first.type, {first.shape, first.shape + first.rank}, nullptr, first.size};
  if (requests.size() == 1 && first.buffers == 1) {
    const std::string_view bytes = first.buffer(0);
    if (is_aligned(bytes.data(), first.type)) {
      input.data = bytes.data();
      return input;
    }
  }
  std::vector<Part> parts{first};
  for (size_t at = 1; at < requests.size(); ++at) {
    const Part& next = parts.emplace_back(part(requests[at].handle, first.name));
    if (next.type != first.type || next.rank != first.rank || first.rank == 0 ||
        !std::equal(next.shape + 1, next.shape + next.rank, first.shape + 1)) {
      throw Failure{TRITONSERVER_ERROR_INVALID_ARG, std::string("input '") + first.name + "' has several shapes"};
    }
    input.shape[0] += next.shape[0];
    input.size += next.size;
  }
  std::vector<char>& joined = buffers_[index];
  if (joined.size() < std::max<size_t>(input.size, 1)) joined.resize(std::max<size_t>(input.size, 1));
  input.data = joined.data();
  size_t end = 0;
  for (const Part& one : parts) {
    for (uint32_t at = 0; at < one.buffers; ++at) {
      const std::string_view bytes = one.buffer(at);
      if (bytes.size() > input.size - end) throw Failure{TRITONSERVER_ERROR_INTERNAL, "an input is too long"};
      if (!bytes.empty()) std::memcpy(joined.data() + end, bytes.data(), bytes.size());
      end += bytes.size();
    }
  }
  return input;
}

// Outputs that any of the requests asks for.
std::vector<const char*> Instance::wanted(const Requests& requests) const {
  std::vector<const char*> names;
  for (const std::string& name : model_.outputs()) {
    if (std::any_of(requests.begin(), requests.end(),
                    [&](const Request& request) { return wants(request.handle, name); })) {
      names.push_back(name.c_str());
    }
  }
  return names;
}

// A request's own rows of the outputs, or all there is.
void Instance::reply(TRITONBACKEND_Request* request, const std::vector<const char*>& names,
                     const std::vector<Output>& outputs, std::optional<Rows> rows, const Times& times) {
  try {
    TRITONBACKEND_Response* made = nullptr;
    check(TRITONBACKEND_ResponseNew(&made, request));
    std::unique_ptr<TRITONBACKEND_Response, TRITONSERVER_Error* (*)(TRITONBACKEND_Response*)> response(
        made, TRITONBACKEND_ResponseDelete);
    for (size_t at = 0; at < names.size(); ++at) {
      if (wants(request, names[at])) fill(made, names[at], outputs[at], rows);
    }
    check(TRITONBACKEND_ResponseSend(response.release(), TRITONSERVER_RESPONSE_COMPLETE_FINAL, nullptr));
  } catch (const Failure& failure) {
    refuse(request, failure);
    return;
  }
  log_error(TRITONBACKEND_ModelInstanceReportStatistics(instance_, request, true, times.start, times.compute_start,
                                                        times.compute_end, Times::now()));
  log_error(TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_ALL));
}

void Instance::refuse(TRITONBACKEND_Request* request, const Failure& failure) {
  TRITONBACKEND_Response* response = nullptr;
  if (TRITONSERVER_Error* error = TRITONBACKEND_ResponseNew(&response, request)) {
    log_error(error);
  } else {
    TRITONSERVER_Error* told = TRITONSERVER_ErrorNew(failure.code, failure.text.c_str());
    log_error(TRITONBACKEND_ResponseSend(response, TRITONSERVER_RESPONSE_COMPLETE_FINAL, told));
    TRITONSERVER_ErrorDelete(told);
  }
  log_error(TRITONBACKEND_ModelInstanceReportStatistics(instance_, request, false, 0, 0, 0, 0));
  log_error(TRITONBACKEND_RequestRelease(request, TRITONSERVER_REQUEST_RELEASE_ALL));
}
