// ONNX Runtime's library, found beside the backend and loaded once for the process.
#pragma once

#include <memory>

#include "engine.h"
#include "onnxruntime.h"

struct Runtime {
  const OrtApi* api = nullptr;
  OrtEnv* env = nullptr;  // for as long as the process lives
  OrtAllocator* allocator = nullptr;
  OrtMemoryInfo* cpu = nullptr;
};

// Throws Failure where the library is missing, too old, or not laid out as its contract says.
const Runtime& runtime();

inline const OrtApi& api() { return *runtime().api; }

// Throws what ONNX Runtime reports as a Failure.
void check(OrtStatus* status);

template <class T>
using Owned = std::unique_ptr<T, void (*)(T*)>;

// Whether the library can run graphs on a GPU.
bool onnxruntime_has_cuda();
