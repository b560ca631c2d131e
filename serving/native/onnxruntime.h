// The part of ONNX Runtime's C API that these backends use. Its table of functions is append-only by contract: entries
// keep their place for ever, so what is not used is left out by its count, and each place is asserted.
#pragma once

#include <cstddef>
#include <cstdint>

constexpr uint32_t kOrtVersion = 15;  // the first that has every entry below; every later library has them too

struct OrtAllocator;
struct OrtCUDAProviderOptionsV2;
struct OrtEnv;
struct OrtMemoryInfo;
struct OrtRunOptions;
struct OrtSession;
struct OrtSessionOptions;
struct OrtStatus;
struct OrtTensorTypeAndShapeInfo;
struct OrtTypeInfo;
struct OrtValue;

enum OrtErrorCode { ORT_OK, ORT_FAIL, ORT_INVALID_ARGUMENT };
enum OrtLoggingLevel { ORT_LOGGING_LEVEL_ERROR = 3 };
enum ExecutionMode { ORT_SEQUENTIAL, ORT_PARALLEL };
enum GraphOptimizationLevel { ORT_DISABLE_ALL, ORT_ENABLE_BASIC, ORT_ENABLE_EXTENDED, ORT_ENABLE_ALL = 99 };
enum OrtAllocatorType { OrtDeviceAllocator };
enum OrtMemType { OrtMemTypeDefault };
enum ONNXTensorElementDataType {
  ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16 = 16,
};

// A null status is success; any other is released by who gets it.
struct OrtApi {
  void* unused_0[1];
  OrtErrorCode (*GetErrorCode)(const OrtStatus*);
  const char* (*GetErrorMessage)(const OrtStatus*);
  OrtStatus* (*CreateEnv)(OrtLoggingLevel, const char* id, OrtEnv**);
  void* unused_4[3];
  OrtStatus* (*CreateSession)(const OrtEnv*, const char* path, const OrtSessionOptions*, OrtSession**);
  void* unused_8[1];
  OrtStatus* (*Run)(OrtSession*, const OrtRunOptions*, const char* const* input_names, const OrtValue* const* inputs,
                    size_t input_count, const char* const* output_names, size_t output_count, OrtValue** outputs);
  OrtStatus* (*CreateSessionOptions)(OrtSessionOptions**);
  void* unused_11[2];
  OrtStatus* (*SetSessionExecutionMode)(OrtSessionOptions*, ExecutionMode);
  void* unused_14[8];
  OrtStatus* (*SetSessionLogSeverityLevel)(OrtSessionOptions*, int level);
  OrtStatus* (*SetSessionGraphOptimizationLevel)(OrtSessionOptions*, GraphOptimizationLevel);
  OrtStatus* (*SetIntraOpNumThreads)(OrtSessionOptions*, int threads);
  OrtStatus* (*SetInterOpNumThreads)(OrtSessionOptions*, int threads);
  void* unused_26[4];
  OrtStatus* (*SessionGetInputCount)(const OrtSession*, size_t*);
  OrtStatus* (*SessionGetOutputCount)(const OrtSession*, size_t*);
  void* unused_32[1];
  OrtStatus* (*SessionGetInputTypeInfo)(const OrtSession*, size_t index, OrtTypeInfo**);
  OrtStatus* (*SessionGetOutputTypeInfo)(const OrtSession*, size_t index, OrtTypeInfo**);
  void* unused_35[1];
  OrtStatus* (*SessionGetInputName)(const OrtSession*, size_t index, OrtAllocator*, char**);
  OrtStatus* (*SessionGetOutputName)(const OrtSession*, size_t index, OrtAllocator*, char**);
  void* unused_38[10];
  OrtStatus* (*CreateTensorAsOrtValue)(OrtAllocator*, const int64_t* shape, size_t rank, ONNXTensorElementDataType,
                                       OrtValue**);
  OrtStatus* (*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo*, void* data, size_t size, const int64_t* shape,
                                               size_t rank, ONNXTensorElementDataType, OrtValue**);
  void* unused_50[1];
  OrtStatus* (*GetTensorMutableData)(OrtValue*, void**);
  void* unused_52[1];
  OrtStatus* (*GetStringTensorDataLength)(const OrtValue*, size_t*);
  OrtStatus* (*GetStringTensorContent)(const OrtValue*, void* bytes, size_t size, size_t* offsets, size_t count);
  OrtStatus* (*CastTypeInfoToTensorInfo)(const OrtTypeInfo*, const OrtTensorTypeAndShapeInfo**);
  void* unused_56[4];
  OrtStatus* (*GetTensorElementType)(const OrtTensorTypeAndShapeInfo*, ONNXTensorElementDataType*);
  OrtStatus* (*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo*, size_t*);
  OrtStatus* (*GetDimensions)(const OrtTensorTypeAndShapeInfo*, int64_t* dims, size_t rank);
  void* unused_63[2];
  OrtStatus* (*GetTensorTypeAndShape)(const OrtValue*, OrtTensorTypeAndShapeInfo**);
  void* unused_66[3];
  OrtStatus* (*CreateCpuMemoryInfo)(OrtAllocatorType, OrtMemType, OrtMemoryInfo**);
  void* unused_70[6];
  OrtStatus* (*AllocatorFree)(OrtAllocator*, void*);
  void* unused_77[1];
  OrtStatus* (*GetAllocatorWithDefaultOptions)(OrtAllocator**);
  void* unused_79[14];
  void (*ReleaseStatus)(OrtStatus*);
  void* unused_94[1];
  void (*ReleaseSession)(OrtSession*);
  void (*ReleaseValue)(OrtValue*);
  void* unused_97[1];
  void (*ReleaseTypeInfo)(OrtTypeInfo*);
  void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo*);
  void (*ReleaseSessionOptions)(OrtSessionOptions*);
  void* unused_101[24];
  OrtStatus* (*GetAvailableProviders)(char*** names, int* count);
  OrtStatus* (*ReleaseAvailableProviders)(char** names, int count);
  void* unused_127[77];
  OrtStatus* (*SessionOptionsAppendExecutionProvider_CUDA_V2)(OrtSessionOptions*, const OrtCUDAProviderOptionsV2*);
  OrtStatus* (*CreateCUDAProviderOptions)(OrtCUDAProviderOptionsV2**);
  OrtStatus* (*UpdateCUDAProviderOptions)(OrtCUDAProviderOptionsV2*, const char* const* keys, const char* const* values,
                                          size_t count);
  void* unused_207[1];
  void (*ReleaseCUDAProviderOptions)(OrtCUDAProviderOptionsV2*);
  void* unused_209[43];
  OrtStatus* (*GetResizedStringTensorElementBuffer)(OrtValue*, size_t index, size_t size, char** bytes);
};

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

#define SLIPWAY_PLACE(entry, place) static_assert(offsetof(OrtApi, entry) == (place) * sizeof(void*))
SLIPWAY_PLACE(CreateSession, 7);
SLIPWAY_PLACE(SetSessionExecutionMode, 13);
SLIPWAY_PLACE(SetSessionLogSeverityLevel, 22);
SLIPWAY_PLACE(SessionGetInputCount, 30);
SLIPWAY_PLACE(SessionGetInputTypeInfo, 33);
SLIPWAY_PLACE(SessionGetInputName, 36);
SLIPWAY_PLACE(CreateTensorAsOrtValue, 48);
SLIPWAY_PLACE(GetTensorMutableData, 51);
SLIPWAY_PLACE(GetStringTensorDataLength, 53);
SLIPWAY_PLACE(GetTensorElementType, 60);
SLIPWAY_PLACE(GetTensorTypeAndShape, 65);
SLIPWAY_PLACE(CreateCpuMemoryInfo, 69);
SLIPWAY_PLACE(AllocatorFree, 76);
SLIPWAY_PLACE(GetAllocatorWithDefaultOptions, 78);
SLIPWAY_PLACE(ReleaseStatus, 93);
SLIPWAY_PLACE(ReleaseSession, 95);
SLIPWAY_PLACE(ReleaseTypeInfo, 98);
SLIPWAY_PLACE(ReleaseSessionOptions, 100);
SLIPWAY_PLACE(ReleaseAvailableProviders, 126);
SLIPWAY_PLACE(SessionOptionsAppendExecutionProvider_CUDA_V2, 204);
SLIPWAY_PLACE(ReleaseCUDAProviderOptions, 208);
SLIPWAY_PLACE(GetResizedStringTensorElementBuffer, 252);
#undef SLIPWAY_PLACE
