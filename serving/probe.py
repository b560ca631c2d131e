"""Whether a model really answers, and as which version: one row through gRPC, never the server's own word."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from pipeline.columns import CATEGORICAL, MISSING_TIMESTAMP, NUMERIC, TIMESTAMP, RowSchema
from pipeline.errors import Invalid, Unavailable
from serving.model_config import COLUMNS
from serving.triton import TritonClient

if TYPE_CHECKING:  # brings pandas, which the watcher would carry for nothing
    from pipeline.tensors import Tensors

LOADING_S = 60.0


def probe(client: TritonClient, name: str, version: int, digest: str | None = None) -> RowSchema:
    """Return the schema that the model serves, once it answers a row as this version (and ONNX digest).

    Raises:
        Invalid: it cannot be loaded, or another version or digest answers. A retry does not help.
        Unavailable: it does not answer in time. A retry helps.
    """
    await_loaded(client, name)
    parameters = client.parameters(name)
    served = (parameters.get("version"), parameters.get("digest"))
    if served[0] != str(version) or (digest is not None and served[1] != digest):
        raise Invalid(
            f"version {served[0]} with digest {str(served[1])[:16]} answers, expected was version {version}",
            f"{client.address}, model {name}",
            "another hand moved it: run again",
        )
    schema = served_schema(client, name)
    answer = client.infer(name, missing_row(schema), schema.output, str(version))
    if answer.shape != (1, schema.width) or not np.isfinite(answer).all():
        raise Invalid(
            f"a row of missing values gets {answer.tolist()}", f"{client.address}, model {name}", "export anew"
        )
    return schema


def await_loaded(client: TritonClient, name: str) -> None:
    """Return once the model is loaded; Invalid with Triton's reason when it cannot be."""
    deadline = time.monotonic() + LOADING_S
    while not client.model_ready(name):
        for item in client.index():
            if (
                item["name"] == name
                and item.get("state") == "UNAVAILABLE"
                and item.get("reason", "unloaded") != "unloaded"
            ):
                raise Invalid(f"the model does not load: {item['reason']}", f"{client.address}, model {name}")
        if time.monotonic() > deadline:
            raise Unavailable(
                f"{name} was not loaded after {LOADING_S:.0f} s", client.address, "look at the server's log"
            )
        time.sleep(0.05)


def served_schema(client: TritonClient, name: str) -> RowSchema:
    """The columns of the model that is loaded, as it was packaged. Raises Invalid when it is not one of Slipway's."""
    columns = client.parameters(name).get(COLUMNS)
    if columns is None:
        raise Invalid(f"{name} was not packaged by Slipway", client.address, "it has no columns in its parameters")
    return RowSchema.model_validate_json(columns)


def missing_row(schema: RowSchema) -> Tensors:
    """One row with every value missing: what every model must be able to answer."""
    tensors: Tensors = {}
    if schema.numeric:
        tensors[NUMERIC] = np.full((1, len(schema.numeric)), np.nan, dtype=np.float32)
    if schema.categorical:
        tensors[CATEGORICAL] = np.full((1, len(schema.categorical)), "", dtype=object)
    if schema.timestamp:
        tensors[TIMESTAMP] = np.full((1, len(schema.timestamp)), MISSING_TIMESTAMP, dtype=np.int64)
    return tensors
