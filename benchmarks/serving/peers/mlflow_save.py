"""Save the graph as an MLflow model of flavour onnx: `mlflow_save.py GRAPH FOLDER`."""

from __future__ import annotations

import sys

import mlflow.onnx
import onnx

mlflow.onnx.save_model(
    onnx.load(sys.argv[1]),
    sys.argv[2],
    onnx_session_options={"intra_op_num_threads": 1, "execution_mode": "sequential"},
)
