"""From rows to ONNX: snapshot, features, trainers, tuning, evaluation, export with parity."""
