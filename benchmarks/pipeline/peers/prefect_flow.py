"""The bare script's steps as a Prefect flow: tasks that are submitted, so that both candidates run at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bare
import glue
from prefect import flow, task

asked = bare.options()
CANDIDATES = bare.candidates(asked.trees_trials, asked.network_trials, asked.epochs)


@task
def load(held_out: Path) -> tuple[bare.Part, bare.Part]:
    return bare.load(held_out)


@task
def train(name: str, rows: tuple[bare.Part, bare.Part]) -> bare.Fitted:
    return bare.fitted(CANDIDATES[name], rows[0], asked.folds)


@task
def export(name: str, fitted: bare.Fitted, rows: tuple[bare.Part, bare.Part]) -> bytes:
    return CANDIDATES[name].export(fitted.model, rows[0][0].shape[1])


@task
def check(name: str, fitted: bare.Fitted, content: bytes, rows: tuple[bare.Part, bare.Part]) -> float:
    return bare.checked(CANDIDATES[name], fitted.model, content, rows[1])


@task
def check_rows() -> None:
    glue.check_rows()


@task
def track(name: str, fitted: bare.Fitted, content: bytes, loss: float, rows: tuple[bare.Part, bare.Part]) -> str:
    return glue.track(name, fitted, content, glue.answers(content, rows[1]), loss, rows[1])


@task
def register(uri: str) -> str:
    return glue.register(uri)


@task
def gates(content: bytes, rows: tuple[bare.Part, bare.Part]) -> dict[str, float]:
    return glue.gates(content, rows[1], glue.answers(content, rows[1]))


@task
def promote(version: str, content: bytes, found: dict[str, float]) -> None:
    glue.promote(version, content, found)


@flow
def bench(held_out: Path) -> str:
    rows: Any = load.submit(held_out)
    checked = [check_rows.submit()] if asked.whole else []
    fits = {name: train.submit(name, rows, wait_for=checked) for name in CANDIDATES}
    graphs = {name: export.submit(name, fits[name], rows) for name in CANDIDATES}
    losses = {name: check.submit(name, fits[name], graphs[name], rows) for name in CANDIDATES}
    if asked.whole:
        uris = {name: track.submit(name, fits[name], graphs[name], losses[name], rows) for name in CANDIDATES}
        best = min(CANDIDATES, key=lambda name: losses[name].result())
        version = register.submit(uris[best], wait_for=list(uris.values()))
        promote.submit(version, graphs[best], gates.submit(graphs[best], rows, wait_for=[version])).wait()
    return bare.said({name: (fits[name].result(), losses[name].result()) for name in CANDIDATES})


if __name__ == "__main__":
    print(bench(asked.held_out))
