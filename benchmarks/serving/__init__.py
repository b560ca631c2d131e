"""Throughput and latency of the embedded Triton against other model servers and against ONNX Runtime in process."""
