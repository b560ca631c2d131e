"""LitServe: requests that wait are answered together, a worker and an API server for each core."""

import os
import sys
from typing import Any

import litserve as ls
import numpy as np
import onnxruntime as ort
from fastapi import Request


class Bench(ls.LitAPI):
    def setup(self, device: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["MODEL"], options)

    def decode_request(self, request: Request) -> np.ndarray:
        return np.asarray(request["rows"], dtype=np.float32)

    def batch(self, inputs: list[np.ndarray]) -> tuple[np.ndarray, list[int]]:
        return np.concatenate(inputs), [len(one) for one in inputs]

    def predict(self, batch: tuple[np.ndarray, list[int]]) -> tuple[np.ndarray, list[int]]:
        return self.session.run(None, {"numeric": batch[0]})[0], batch[1]

    def unbatch(self, output: tuple[np.ndarray, list[int]]) -> list[np.ndarray]:
        return np.split(output[0], np.cumsum(output[1])[:-1])

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        return {"probabilities": output.tolist()}


if __name__ == "__main__":
    workers = int(os.environ["WORKERS"])
    api = Bench(max_batch_size=32, batch_timeout=0.0005)
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=workers, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=workers,
        generate_client_file=False,
        log_level="warning",
    )
