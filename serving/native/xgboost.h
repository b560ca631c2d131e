// The part of XGBoost's C API that the backend uses, as xgboost/c_api.h has it. A call that does not return 0 has
// failed.
#pragma once

#include <cstdint>

extern "C" {

using bst_ulong = uint64_t;
using BoosterHandle = void*;
using DMatrixHandle = void*;

const char* XGBGetLastError();
int XGBoosterCreate(const DMatrixHandle matrices[], bst_ulong count, BoosterHandle* out);
int XGBoosterFree(BoosterHandle booster);
int XGBoosterSetParam(BoosterHandle booster, const char* name, const char* value);
int XGBoosterLoadModel(BoosterHandle booster, const char* path);
int XGBoosterSaveJsonConfig(BoosterHandle booster, bst_ulong* size, const char** text);
int XGBoosterGetNumFeature(BoosterHandle booster, bst_ulong* count);
int XGBoosterPredictFromDense(BoosterHandle booster, const char* values, const char* config, DMatrixHandle proxy,
                              const bst_ulong** shape, bst_ulong* rank, const float** result);
}
