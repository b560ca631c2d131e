"""FastAPI as people write it: JSON in and out, checked by pydantic."""

from __future__ import annotations

import os

import numpy as np
import onnxruntime as ort
from fastapi import FastAPI
from pydantic import BaseModel


class Rows(BaseModel):
    rows: list[list[float]]


class Answer(BaseModel):
    probabilities: list[list[float]]


options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(os.environ["MODEL"], options)
app = FastAPI()


@app.post("/predict")
def predict(request: Rows) -> Answer:
    numeric = np.asarray(request.rows, dtype=np.float32)
    return Answer(probabilities=session.run(None, {"numeric": numeric})[0].tolist())
