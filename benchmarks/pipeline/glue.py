"""The other steps of a run as people write them: checks, tracking, plots, registry, server, gates, promotion.

Great Expectations, MLflow's client and flavours, matplotlib and tritonclient, as their own guides use them, each imported
by the step that needs it; requirements are given to MLflow, which takes seconds to infer them. Nothing of Slipway, and
less than what it does: no signature, no record, no comparison with the champion, no slices, no robustness, no leakage.

    MLFLOW_TRACKING_URI   the server that is up for all ways
    BENCH_SUITE           the suite of expectations, as JSON
    BENCH_TRITON          folder of tritonserver and its backends
    BENCH_SERVING         gRPC address of the serving Triton, and its repository, separated by a comma
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from bare import Fitted, Floats, Part
from sklearn.datasets import load_breast_cancer

NAME = "glue"
RATE_PER_S, LOAD_S = 100, 2.0  # as the spec of Slipway's runs says
CONFIG = """backend: "onnxruntime"
max_batch_size: 1024
dynamic_batching { }
instance_group [ { count: 1 kind: KIND_AUTO } ]
"""


def check_rows() -> None:
    """The suite on all rows, by Great Expectations on pandas."""
    import great_expectations as gx

    bunch = load_breast_cancer(as_frame=True)
    frame = bunch.data.rename(columns=lambda name: name.replace(" ", "_"))
    frame["target"] = np.where(bunch.target == 0, "malignant", "benign")
    context = gx.get_context(mode="ephemeral")
    whole = context.data_sources.add_pandas("rows").add_dataframe_asset("rows")
    batch = whole.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    suite = json.loads(Path(os.environ["BENCH_SUITE"]).read_text())
    result = batch.validate(gx.ExpectationSuite(name=suite["name"], expectations=suite["expectations"]))
    if not result.success:
        raise SystemExit("the rows do not meet the suite")


def track(name: str, fitted: Fitted, content: bytes, answer: Floats, loss: float, held: Part) -> str:
    """A run in MLflow: parameters, metrics, two plots, the native model and the graph; the graph's URI."""
    import mlflow
    from matplotlib.figure import Figure
    from sklearn.calibration import CalibrationDisplay
    from sklearn.metrics import RocCurveDisplay, roc_auc_score

    mlflow.set_experiment(NAME)
    with mlflow.start_run(run_name=name) as run:
        mlflow.log_params({**fitted.params, "length": fitted.length})
        mlflow.log_metrics({"log_loss": loss, "roc_auc": float(roc_auc_score(held[1], answer)), "fit_s": fitted.fit_s})
        for kind, plot in (("roc", RocCurveDisplay), ("calibration", CalibrationDisplay)):
            figure = Figure(layout="constrained")
            plot.from_predictions(held[1], answer, ax=figure.subplots())
            mlflow.log_figure(figure, f"{kind}.png")
        if name == "xgboost":
            mlflow.xgboost.log_model(fitted.model, name="native", pip_requirements=["xgboost"])
        else:
            mlflow.pytorch.log_model(fitted.model, name="native", input_example=held[0][:2], pip_requirements=["torch"])
        mlflow.onnx.log_model(onnx.load_from_string(content), name="graph", pip_requirements=["onnxruntime"])
        return f"runs:/{run.info.run_id}/graph"


def register(uri: str) -> str:
    """A version of the registered model, under the alias challenger; its number."""
    import mlflow

    version = str(mlflow.register_model(uri, NAME).version)
    mlflow.MlflowClient().set_registered_model_alias(NAME, "challenger", version)
    return version


def gates(content: bytes, held: Part, expected: Floats) -> dict[str, float]:
    """Serve the graph on a Triton of its own: its answers are the model's, good enough, and in time."""
    from sklearn.metrics import log_loss
    from tritonclient import grpc

    with tempfile.TemporaryDirectory() as folder, _server(Path(folder), content) as address:
        client = grpc.InferenceServerClient(address)
        output = _answer_of(client)
        served = _ask(client, held[0], output)
        np.testing.assert_allclose(served, expected, atol=1e-5, rtol=1e-4)
        loss = float(log_loss(held[1], served))
        if loss > float(log_loss(held[1], np.full(len(served), held[1].mean()))):
            raise SystemExit("worse than one answer for all rows")
        begin = time.perf_counter() + 0.05

        def one(at: int) -> float:
            time.sleep(max(0.0, begin + at / RATE_PER_S - time.perf_counter()))
            _ask(client, held[0][at % len(held[0])][None], output)
            return time.perf_counter() - begin - at / RATE_PER_S

        with ThreadPoolExecutor(32) as pool:
            took = list(pool.map(one, range(round(RATE_PER_S * LOAD_S))))
    return {"served_log_loss": loss, "p95_ms": float(np.percentile(took, 95)) * 1000}


def promote(version: str, content: bytes, found: Mapping[str, float]) -> None:
    """Into the repository of the serving Triton, loaded, asked once; then the aliases."""
    import mlflow
    from tritonclient import grpc

    address, repository = os.environ["BENCH_SERVING"].split(",")
    _place(Path(repository), content, version)
    client = grpc.InferenceServerClient(address)
    client.load_model(NAME)
    _ask(client, np.zeros((1, 30), np.float32), _answer_of(client))
    registry = mlflow.MlflowClient()
    for key, value in found.items():
        registry.set_model_version_tag(NAME, version, key, f"{value:.6f}")
    registry.set_registered_model_alias(NAME, "champion", version)
    registry.delete_registered_model_alias(NAME, "challenger")


def finish(names: Mapping[str, float], contents: Mapping[str, bytes], uris: Mapping[str, str], held: Part) -> None:
    """What comes after the candidates: the best of them by log loss, to the end."""
    best = min(names, key=lambda name: names[name])
    version = register(uris[best])
    promote(version, contents[best], gates(contents[best], held, answers(contents[best], held)))


def answers(content: bytes, held: Part) -> Floats:
    """The graph's answers in this process: of the second class."""
    import onnxruntime as ort

    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    return np.asarray(session.run([session.get_outputs()[-1].name], {"x": held[0]})[0][:, 1], dtype=np.float32)


def _place(repository: Path, content: bytes, version: str) -> None:
    folder = repository / NAME
    fresh = folder / version
    fresh.mkdir(parents=True)
    (fresh / "model.onnx").write_bytes(content)
    (folder / "config.pbtxt").write_text(CONFIG)
    for old in folder.iterdir():
        if old.is_dir() and old != fresh:
            shutil.rmtree(old)


@contextmanager
def _server(folder: Path, content: bytes) -> Iterator[str]:
    """A Triton with the graph; its gRPC address."""
    root = Path(os.environ["BENCH_TRITON"])
    triton = root / "server" / "pytriton" / "tritonserver"
    _place(folder, content, "1")
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        http, port = one.getsockname()[1], other.getsockname()[1]
    command = [
        str(triton / "bin" / "tritonserver"), f"--model-repository={folder}", "--allow-metrics=false",
        f"--backend-directory={root / 'backends'}", f"--cache-directory={triton / 'caches'}", "--http-address=127.0.0.1",
        f"--http-port={http}", "--grpc-address=127.0.0.1", f"--grpc-port={port}", "--log-info=false",
    ]  # fmt: skip
    env = {**os.environ, "LD_LIBRARY_PATH": str(root / "server" / "nvidia_pytriton.libs")}
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=env, **quiet)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _answer_of(client: Any) -> str:
    """The name of the output that has the probabilities, once the model is loaded."""
    from tritonclient.utils import InferenceServerException

    for _ in range(600):
        try:
            if client.is_model_ready(NAME):
                return str(client.get_model_metadata(NAME).outputs[-1].name)
        except InferenceServerException:
            pass
        time.sleep(0.05)
    raise SystemExit("the model was not loaded in 30 s")


def _ask(client: Any, rows: Floats, output: str) -> Floats:
    from tritonclient import grpc

    tensor = grpc.InferInput("x", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(np.ascontiguousarray(rows))
    found = client.infer(NAME, [tensor], outputs=[grpc.InferRequestedOutput(output)])
    return np.asarray(found.as_numpy(output)[:, 1], dtype=np.float32)
