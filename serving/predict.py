"""Answers of the serving champion to rows as people have them, and the same question as a curl command."""

from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.columns import CATEGORICAL, RowSchema
from pipeline.csv_rows import read_csv
from pipeline.dataset import split_batches
from pipeline.errors import Invalid
from pipeline.refs import DatasetRef
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.spec_file import load_spec
from pipeline.tensors import Tensors, to_tensors
from serving.plane import plane
from serving.probe import served_schema
from serving.triton import TritonClient


def read_request(data: str) -> pd.DataFrame:
    """Rows from a CSV, Parquet or JSON file (a list of objects); `-` reads JSON from standard input.

    Raises:
        Invalid: the file cannot be read. A retry does not help.
    """
    path = Path(data)
    try:
        content = sys.stdin.buffer.read() if data == "-" else path.read_bytes()
    except OSError as error:
        raise Invalid(f"the rows cannot be read: {error.strerror}", data, "name a CSV, Parquet or JSON file") from error
    if data != "-" and path.suffix.lower() in (".parquet", ".pq"):
        try:
            return pd.read_parquet(io.BytesIO(content))
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise Invalid("this is not a Parquet file", data, "write it anew") from error
    if data == "-" or path.suffix.lower() in (".json", ".jsonl"):
        return _json_rows(content, data)
    return read_csv(content, data)


def predict(settings: Settings, name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """A row of answers for each row: the probability of each class and the label, or the prediction.

    Raises:
        Invalid: no such model serves, a column is missing, or a value does not fit. A retry does not help.
        Unavailable: Triton does not answer. A retry helps.
    """
    with TritonClient(plane(settings).address(name).grpc, settings.timeout_s) as client:
        schema = _schema(client, name)
        answers = client.replay(name, to_tensors(frame, schema), schema.output)
    if schema.task == "regression":
        return pd.DataFrame({schema.target: answers[:, 0]})
    labels = np.array(schema.classes, dtype=object)[answers.argmax(axis=1)]
    found = pd.DataFrame({schema.target: labels})
    for at, label in enumerate(schema.classes):
        found[f"probability_{label}"] = answers[:, at]
    return found


def curl_line(settings: Settings, run: Run, dataset: DatasetRef, name: str) -> str:
    """A command that asks the champion about the first held-out row, through Triton's HTTP."""
    spec = load_spec(run.spec_path)
    rows = next(held for _, held in split_batches(run, dataset, spec.split) if len(held))
    body = request_body(to_tensors(rows.head(1), dataset.row_schema, "snapshot"))
    return f"curl -s http://{plane(settings).address(name).http}/v2/models/{name}/infer -d '{body}'"


def request_body(tensors: Tensors) -> str:
    """The tensors as a request of the KServe v2 protocol; a shell may quote it in single quotes."""
    inputs = []
    for name, value in tensors.items():
        kind = "BYTES" if name == CATEGORICAL else "FP32" if value.dtype == np.float32 else "INT64"
        data = [None if isinstance(item, float) and math.isnan(item) else item for item in value.ravel().tolist()]
        if (
            None in data
        ):  # JSON has no NaN; Triton reads the number that float32 takes for infinity, which is missing too
            data = [1e39 if item is None else item for item in data]
        inputs.append({"name": name, "shape": list(value.shape), "datatype": kind, "data": data})
    return json.dumps({"inputs": inputs}).replace("'", "\\u0027")


def _schema(client: TritonClient, name: str) -> RowSchema:
    try:
        return served_schema(client, name)
    except Invalid as error:
        served = sorted({item["name"] for item in client.index() if item.get("state") == "READY"})
        remedy = f"served are: {', '.join(served)}" if served else "nothing serves yet: `slipway run SPEC`"
        raise Invalid(f"no model {name!r} serves", client.address, remedy) from error


def _integer(digits: str) -> int | float:
    """A JSON integer; one that no column can hold is a float, which may be infinite."""
    return int(digits) if len(digits) < 19 else float(digits)


def _json_rows(content: bytes, where: str) -> pd.DataFrame:
    try:
        value = json.loads(content, parse_int=_integer)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        try:
            value = [json.loads(line, parse_int=_integer) for line in content.splitlines() if line.strip()]
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Invalid(f"not JSON: {error}", where, 'write [{"column": value, ...}, ...]') from None
    rows = value if isinstance(value, list) else [value]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise Invalid("rows are a list of objects, and not empty", where, 'write [{"column": value, ...}, ...]')
    return pd.DataFrame(rows)
