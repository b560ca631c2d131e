"""The strongest plain endpoint that one writes by hand: bytes of float32 in and out, with no queue and no thread between."""

from __future__ import annotations

import os

import numpy as np
import onnxruntime as ort
from fastapi import FastAPI, Request, Response

options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(os.environ["MODEL"], options)
columns = session.get_inputs()[0].shape[1]
app = FastAPI()


@app.post("/predict")
async def predict(request: Request) -> Response:
    numeric = np.frombuffer(await request.body(), dtype=np.float32).reshape(-1, columns)
    answer = session.run(None, {"numeric": numeric})[0]
    return Response(answer.tobytes(), media_type="application/octet-stream")
