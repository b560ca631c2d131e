// What Triton calls. Nothing is thrown through these functions: a Failure becomes the server's error.

#include <cstring>
#include <new>

#include "instance.h"
#include "runtime.h"

#define SLIPWAY_EXPORT __attribute__((visibility("default")))

namespace {

template <class Function>
TRITONSERVER_Error* answered(Function&& function) {
  try {
    function();
    return nullptr;
  } catch (const Failure& failure) {
    return TRITONSERVER_ErrorNew(failure.code, failure.text.c_str());
  } catch (const std::exception& error) {
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, error.what());
  }
}

Model* state_of(TRITONBACKEND_Model* model) {
  void* state = nullptr;
  check(TRITONBACKEND_ModelState(model, &state));
  return static_cast<Model*>(state);
}

Instance* state_of(TRITONBACKEND_ModelInstance* instance) {
  void* state = nullptr;
  check(TRITONBACKEND_ModelInstanceState(instance, &state));
  return static_cast<Instance*>(state);
}

}  // namespace

extern "C" {

SLIPWAY_EXPORT TRITONSERVER_Error* TRITONBACKEND_Initialize(TRITONBACKEND_Backend*) {
  return answered([] {
    uint32_t major = 0, minor = 0;
    check(TRITONBACKEND_ApiVersion(&major, &minor));
    if (major != kTritonMajor || minor < kTritonMinor) {
      const std::string found = std::to_string(major) + "." + std::to_string(minor);
      const std::string wanted = std::to_string(kTritonMajor) + "." + std::to_string(kTritonMinor);
      throw Failure{TRITONSERVER_ERROR_UNSUPPORTED, "this Triton's API is " + found + ", and the backend's " + wanted};
    }
    runtime();
  });
}

SLIPWAY_EXPORT TRITONSERVER_Error* TRITONBACKEND_GetBackendAttribute(TRITONBACKEND_Backend*,
                                                                     TRITONBACKEND_BackendAttribute* attributes) {
  return TRITONBACKEND_BackendAttributeSetParallelModelInstanceLoading(attributes, true);
}

SLIPWAY_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model* model) {
  return answered([=] {
    auto state = std::make_unique<Model>(model);
    check(TRITONBACKEND_ModelSetState(model, state.get()));
    state.release();
  });
}

SLIPWAY_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model* model) {
  return answered([=] { delete state_of(model); });
}

SLIPWAY_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance* instance) {
  return answered([=] {
    TRITONBACKEND_Model* model = nullptr;
    check(TRITONBACKEND_ModelInstanceModel(instance, &model));
    auto state = std::make_unique<Instance>(*state_of(model), instance);
    check(TRITONBACKEND_ModelInstanceSetState(instance, state.get()));
    state.release();
  });
}

SLIPWAY_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelInstanceFinalize(TRITONBACKEND_ModelInstance* instance) {
  return answered([=] { delete state_of(instance); });
}

SLIPWAY_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(TRITONBACKEND_ModelInstance* instance,
                                                                      TRITONBACKEND_Request** requests,
                                                                      const uint32_t count) {
  return answered([=] { state_of(instance)->execute(requests, count); });
}
}
