#include "runtime.h"

#include <dlfcn.h>

#include <cstring>
#include <string_view>

namespace {

constexpr const char* kLibrary = "libonnxruntime.so.1";  // found by the backend's rpath

void check(const OrtApi& ort, OrtStatus* status) {
  if (status == nullptr) return;
  const std::string text = ort.GetErrorMessage(status);
  // Values of the request that the graph cannot take are said in words alone.
  const bool blames_request =
      ort.GetErrorCode(status) == ORT_INVALID_ARGUMENT || text.find("out of bounds") != std::string::npos;
  ort.ReleaseStatus(status);
  throw Failure{blames_request ? TRITONSERVER_ERROR_INVALID_ARG : TRITONSERVER_ERROR_INTERNAL, text};
}

// A library that is not laid out as declared is found here, and not in a request: a text goes into a tensor and out.
void try_out(const Runtime& loaded) {
  const OrtApi& ort = *loaded.api;
  static constexpr std::string_view kText = "laid out as declared";
  const int64_t shape = 1;
  OrtValue* value = nullptr;
  check(ort, ort.CreateTensorAsOrtValue(loaded.allocator, &shape, 1, ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING, &value));
  const Owned<OrtValue> kept(value, ort.ReleaseValue);
  char* bytes = nullptr;
  check(ort, ort.GetResizedStringTensorElementBuffer(value, 0, kText.size(), &bytes));
  std::memcpy(bytes, kText.data(), kText.size());
  size_t size = 0, begin = 1;
  check(ort, ort.GetStringTensorDataLength(value, &size));
  std::string found(size, '\0');
  check(ort, ort.GetStringTensorContent(value, found.data(), size, &begin, 1));
  if (found != kText || begin != 0) {
    throw Failure{TRITONSERVER_ERROR_INTERNAL, std::string(kLibrary) + " is not laid out as its contract says"};
  }
}

Runtime load() {
  void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  void* symbol = library == nullptr ? nullptr : dlsym(library, "OrtGetApiBase");
  if (symbol == nullptr) throw Failure{TRITONSERVER_ERROR_UNAVAILABLE, std::string("no ONNX Runtime: ") + dlerror()};
  const OrtApiBase* base = reinterpret_cast<const OrtApiBase* (*)()>(symbol)();
  Runtime loaded;
  loaded.api = base->GetApi(kOrtVersion);
  if (loaded.api == nullptr) {
    throw Failure{TRITONSERVER_ERROR_UNSUPPORTED,
                  std::string("ONNX Runtime ") + base->GetVersionString() + " is too old: 1.15 or newer is needed"};
  }
  const OrtApi& ort = *loaded.api;
  check(ort, ort.CreateEnv(ORT_LOGGING_LEVEL_ERROR, "triton", &loaded.env));
  check(ort, ort.GetAllocatorWithDefaultOptions(&loaded.allocator));
  check(ort, ort.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &loaded.cpu));
  try_out(loaded);
  return loaded;
}

}  // namespace

const Runtime& runtime() {
  static const Runtime loaded = load();
  return loaded;
}

void check(OrtStatus* status) { check(api(), status); }

bool onnxruntime_has_cuda() {
  char** names = nullptr;
  int count = 0;
  check(api().GetAvailableProviders(&names, &count));
  bool found = false;
  for (int at = 0; at < count; ++at) found = found || std::string_view(names[at]) == "CUDAExecutionProvider";
  check(api().ReleaseAvailableProviders(names, count));
  return found;
}
