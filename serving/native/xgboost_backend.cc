// The backend `xgboost`: `<version>/features.onnx` makes a matrix of the request, `<version>/model.ubj` answers it.
// Trees walk large batches faster than the same trees as ONNX do.

#include <algorithm>
#include <string>

#include "session.h"
#include "xgboost.h"

namespace {

constexpr const char* kMatrix = "matrix";

void check_booster(int result) {
  if (result == 0) return;
  const std::string text = XGBGetLastError();  // the last line says what, those before where
  throw Failure{TRITONSERVER_ERROR_INTERNAL, "XGBoost: " + text.substr(0, text.find("\nStack trace"))};
}

// A booster, which gtree and dart may be asked from several threads at once.
class Booster {
 public:
  Booster(const std::string& path, int threads) {
    check_booster(XGBoosterCreate(nullptr, 0, &handle_));
    try {
      check_booster(XGBoosterLoadModel(handle_, path.c_str()));
      check_booster(XGBoosterSetParam(handle_, "nthread", std::to_string(threads).c_str()));
      check_booster(XGBoosterSetParam(handle_, "device", "cpu"));
      check_booster(XGBoosterGetNumFeature(handle_, &features_));
      const std::vector<float> nothing(features_, 0.0f);
      predict(nothing.data(), 1);  // configures itself on its first answer, which is not for several threads
      bst_ulong size = 0;
      const char* text = nullptr;
      check_booster(XGBoosterSaveJsonConfig(handle_, &size, &text));
      objective_ = Json({text, size})["learner"]["objective"]["name"].text();
    } catch (...) {
      XGBoosterFree(handle_);
      throw;
    }
  }
  ~Booster() { XGBoosterFree(handle_); }
  Booster(const Booster&) = delete;
  Booster& operator=(const Booster&) = delete;

  int64_t features() const { return static_cast<int64_t>(features_); }
  const std::string& objective() const { return objective_; }

  struct Answer {  // (rows, width) float32, until the next one in this thread
    const float* values;
    int64_t width;
  };
  Answer predict(const float* matrix, int64_t rows) const {
    const std::string values = R"({"data":[)" + std::to_string(reinterpret_cast<uintptr_t>(matrix)) +
                               R"(,true],"shape":[)" + std::to_string(rows) + "," + std::to_string(features_) +
                               R"(],"typestr":"<f4","version":3})";
    static constexpr const char* kConfig =
        R"({"type":0,"training":false,"iteration_begin":0,"iteration_end":0,"strict_shape":true,"missing":NaN,)"
        R"("cache_id":0})";
    const bst_ulong* shape = nullptr;
    bst_ulong rank = 0;
    Answer answer{};
    check_booster(XGBoosterPredictFromDense(handle_, values.c_str(), kConfig, nullptr, &shape, &rank, &answer.values));
    answer.width = rank < 2 ? 1 : static_cast<int64_t>(shape[1]);
    return answer;
  }

 private:
  BoosterHandle handle_ = nullptr;
  bst_ulong features_ = 0;
  std::string objective_;
};

// The answer of the task: probabilities of all classes, also of two, or a prediction.
class Trees : public Engine {
 public:
  Trees(const std::string& folder, const SessionOptions& options)
      : features_(folder + "/features.onnx", options),
        booster_(folder + "/model.ubj", std::max(options.intra_op_threads, 1)),
        two_classes_(booster_.objective() == "binary:logistic") {
    const std::vector<Described>& made = features_.outputs();
    if (made.size() != 1 || made[0].name != kMatrix || made[0].type != TRITONSERVER_TYPE_FP32 ||
        made[0].dims.size() != 2 || (made[0].dims[1] != -1 && made[0].dims[1] != booster_.features())) {
      throw Failure{TRITONSERVER_ERROR_INVALID_ARG, "features.onnx does not make the matrix of " +
                                                        std::to_string(booster_.features()) +
                                                        " columns that model.ubj takes"};
    }
    const std::vector<float> nothing(static_cast<size_t>(booster_.features()), 0.0f);
    const int64_t width = two_classes_ ? 2 : booster_.predict(nothing.data(), 1).width;
    const bool regression = booster_.objective().rfind("reg:", 0) == 0;
    outputs_ = {{regression ? "prediction" : "probabilities", TRITONSERVER_TYPE_FP32, {-1, width}}};
  }

  const std::vector<Described>& inputs() const override { return features_.inputs(); }
  const std::vector<Described>& outputs() const override { return outputs_; }

  std::vector<Output> run(const std::vector<Input>& inputs, const std::vector<const char*>& names) const override {
    if (names.empty()) return {};
    const Output matrix = features_.run(inputs, {kMatrix})[0];
    const int64_t rows = matrix.shape[0], width = outputs_[0].dims[1];
    auto values = std::make_shared<std::vector<float>>(static_cast<size_t>(rows * width));
    if (rows > 0) {
      const float* answer = booster_.predict(reinterpret_cast<const float*>(matrix.data), rows).values;
      if (!two_classes_) values->assign(answer, answer + rows * width);
      for (size_t row = 0; two_classes_ && row < static_cast<size_t>(rows); ++row) {
        (*values)[2 * row] = 1 - answer[row];
        (*values)[2 * row + 1] = answer[row];
      }
    }
    const char* data = reinterpret_cast<const char*>(values->data());
    return {{TRITONSERVER_TYPE_FP32, {rows, width}, data, values->size() * sizeof(float), {}, values}};
  }

 private:
  Session features_;
  Booster booster_;
  const bool two_classes_;
  std::vector<Described> outputs_;
};

}  // namespace

bool has_gpu() { return false; }

std::unique_ptr<Engine> load_engine(const std::string& folder, const Json& config, int) {
  return std::make_unique<Trees>(folder, session_options(config));
}
