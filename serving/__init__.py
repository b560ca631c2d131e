"""From ONNX to a served champion: model repository, Triton, rollout, gates, promotion."""
