"""The bare script's steps as a ZenML pipeline on the default stack: local orchestrator, local store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import bare
import glue
import numpy as np
from zenml import pipeline, step

asked = bare.options()


def candidate(name: str) -> bare.Candidate:
    return bare.candidates(asked.trees_trials, asked.network_trials, asked.epochs)[name]


@step
def load(
    held_out: str,
) -> tuple[
    Annotated[np.ndarray, "x"], Annotated[np.ndarray, "y"], Annotated[np.ndarray, "x_held"], Annotated[np.ndarray, "y_held"]
]:  # fmt: skip
    (x, y), (x_held, y_held) = bare.load(Path(held_out))
    return x, y, x_held, y_held


@step
def train(
    name: str, x: np.ndarray, y: np.ndarray
) -> tuple[
    Annotated[Any, "model"], Annotated[dict[str, float], "params"], Annotated[int, "length"], Annotated[float, "fit_s"]
]:
    one = bare.fitted(candidate(name), (x, y), asked.folds)
    return one.model, one.params, one.length, one.fit_s


@step
def export(name: str, model: Any, x: np.ndarray) -> Annotated[bytes, "graph"]:
    return candidate(name).export(model, x.shape[1])


@step
def check(name: str, model: Any, content: bytes, x_held: np.ndarray, y_held: np.ndarray) -> Annotated[float, "loss"]:
    return bare.checked(candidate(name), model, content, (x_held, y_held))


@step
def check_rows() -> None:
    glue.check_rows()


@step
def track(
    name: str, model: Any, params: dict[str, float], length: int, fit_s: float, content: bytes, loss: float,
    x_held: np.ndarray, y_held: np.ndarray,
) -> Annotated[str, "uri"]:  # fmt: skip
    held = x_held, y_held
    return glue.track(name, bare.Fitted(model, params, length, fit_s), content, glue.answers(content, held), loss, held)


@step
def choose(
    trees_loss: float, trees_graph: bytes, trees_uri: str, network_loss: float, network_graph: bytes, network_uri: str
) -> tuple[Annotated[bytes, "graph"], Annotated[str, "uri"]]:
    if trees_loss < network_loss:
        return trees_graph, trees_uri
    return network_graph, network_uri


@step
def register(uri: str) -> Annotated[str, "version"]:
    return glue.register(uri)


@step
def gates(content: bytes, x_held: np.ndarray, y_held: np.ndarray) -> Annotated[dict[str, float], "verdict"]:
    held = x_held, y_held
    return glue.gates(content, held, glue.answers(content, held))


@step
def promote(version: str, content: bytes, found: dict[str, float]) -> None:
    glue.promote(version, content, found)


@step
def compare(
    trees: dict[str, float], trees_length: int, trees_fit_s: float, trees_loss: float,
    network: dict[str, float], network_length: int, network_fit_s: float, network_loss: float,
) -> Annotated[str, "said"]:  # fmt: skip
    return bare.said(
        {
            "xgboost": (bare.Fitted(None, trees, trees_length, trees_fit_s), trees_loss),
            "torch": (bare.Fitted(None, network, network_length, network_fit_s), network_loss),
        }
    )


@pipeline(enable_cache=False)
def bench(held_out: str) -> None:
    x, y, x_held, y_held = load(held_out)
    ends: list[Any] = []
    tracked: list[Any] = []
    if asked.whole:
        check_rows()
    for name in ("xgboost", "torch"):
        model, params, length, fit_s = train(name, x, y, after=["check_rows"] if asked.whole else [])
        graph = export(name, model, x)
        loss = check(name, model, graph, x_held, y_held)
        ends += [params, length, fit_s, loss]
        if asked.whole:
            tracked += [loss, graph, track(name, model, params, length, fit_s, graph, loss, x_held, y_held)]
    if asked.whole:
        graph, uri = choose(*tracked)
        promote(register(uri), graph, gates(graph, x_held, y_held))
    compare(*ends)


if __name__ == "__main__":
    run = bench(str(asked.held_out))
    print(run.steps["compare"].outputs["said"][0].load())
