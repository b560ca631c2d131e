// An instance of a model: answers the batches that Triton gathers for it, one batch at a time.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "model.h"

// Rows of a batch that are one request's.
struct Rows {
  size_t begin, count;
};

class Instance {
 public:
  Instance(Model& model, TRITONBACKEND_ModelInstance* instance);

  // Answers and releases every request. A batch is one run; where that fails, or was no batch, requests are run one by
  // one, so that a bad one hurts itself alone.
  void execute(TRITONBACKEND_Request** requests, uint32_t count);

 private:
  struct Times;
  struct Request {
    TRITONBACKEND_Request* handle;
    size_t rows;
  };
  using Requests = std::vector<Request>;

  std::optional<Failure> try_answer(const Requests& requests, Times& times);
  void answer(const Requests& requests, Times& times);
  std::vector<Input> gather(const Requests& requests);
  Input gather_one(const Requests& requests, uint32_t index);
  std::vector<const char*> wanted(const Requests& requests) const;
  void reply(TRITONBACKEND_Request* request, const std::vector<const char*>& names, const std::vector<Output>& outputs,
             std::optional<Rows> rows, const Times& times);
  void refuse(TRITONBACKEND_Request* request, const Failure& failure);

  const Model& model_;
  TRITONBACKEND_ModelInstance* const instance_;
  std::shared_ptr<const Engine> engine_;
  std::vector<std::vector<char>> buffers_;  // of each input, for what does not lie in one piece
};
