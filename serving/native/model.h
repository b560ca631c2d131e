// A version of a model on the server: its configuration, and its engine, which all instances on a device share.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine.h"

// Throws what Triton reports as a Failure.
void check(TRITONSERVER_Error* error);

void warn(const std::string& text);

class Model {
 public:
  explicit Model(TRITONBACKEND_Model* model);

  // The engine on a GPU or the CPU, loaded by who asks first.
  std::shared_ptr<const Engine> engine(int gpu_or_cpu);

  bool batched() const { return batched_; }
  const std::vector<std::string>& outputs() const { return outputs_; }

 private:
  void complete(TRITONBACKEND_Model* model) const;
  void match(const Engine& engine) const;
  Json config() const { return Json(text_); }

  std::string text_, folder_;
  bool batched_ = false, warned_ = false;
  std::vector<std::string> outputs_;
  std::mutex loading_;
  std::map<int, std::weak_ptr<const Engine>> engines_;
};
