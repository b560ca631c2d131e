"""BentoML: a service of NumPy arrays, a worker for each core."""

from __future__ import annotations

import os

import bentoml
import numpy as np
import onnxruntime as ort


@bentoml.service(workers=int(os.environ["WORKERS"]), logging={"access": {"enabled": False}})
class Bench:
    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["MODEL"], options)

    @bentoml.api
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"numeric": rows.astype(np.float32)})[0]
