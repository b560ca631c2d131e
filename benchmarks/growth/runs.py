"""The steps of a run, by what they are given: rows, columns, candidates."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.growth.tracked import tracked
from feature_checks.check import check
from pipeline.refs import CheckReport
from pipeline.run import Run
from pipeline.spec import PipelineSpec
from pipeline.spec_file import parse_spec
from training.evaluate import evaluate
from training.export import export
from training.snapshot import snapshot
from training.train import train

SPEC = """version: 1
name: {name}
task: {{kind: binary, positive: "1"}}
data: {{source: rows.parquet, target: y}}
candidates: [{candidates}]
checks: {{suite: null}}
"""
CANDIDATE = "{{kind: xgboost, name: trees_{at}, trials: 1, folds: 2, rounds: {rounds}}}"


def rows(count: int, folder: Path) -> Callable[[], None]:
    """Step snapshot of as many rows and 10 columns of Parquet, tracked in MLflow."""
    return _snapshot(folder, rows=count, columns=10)


def columns(count: int, folder: Path) -> Callable[[], None]:
    """Step snapshot of 2,000 rows of as many columns of Parquet, tracked in MLflow."""
    return _snapshot(folder, rows=2000, columns=count)


def candidates(count: int, folder: Path) -> Callable[[], None]:
    """Steps train and export of as many candidates, one after the other, and evaluate of all: 2,000 rows, 10 columns."""
    spec, run = _project(folder, "grown", rows=2000, columns=10, candidates=count)
    first = _project(folder, "first", rows=2000, columns=10)
    _evaluated(*first)  # libraries
    return lambda: _evaluated(spec, run)


def _snapshot(folder: Path, rows: int, columns: int) -> Callable[[], None]:
    first, grown = _project(folder, "first", rows=100, columns=3), _project(folder, "grown", rows=rows, columns=columns)
    snapshot(*first)  # libraries

    def work() -> None:
        if (found := snapshot(*grown).rows) != rows:
            raise SystemExit(f"{found} rows of {rows}")

    return work


def _evaluated(spec: PipelineSpec, run: Run) -> None:
    dataset = snapshot(spec, run)
    checked: CheckReport = check(spec, dataset, run)
    graphs = []
    for candidate in spec.candidates:
        own = dataclasses.replace(run, candidate=candidate.name)
        graphs.append(export(spec, dataset, train(spec, dataset, checked, own), own))
    if evaluate(spec, dataset, tuple(graphs), run).winner is None:
        raise SystemExit("no candidate may go on")


def _project(folder: Path, name: str, rows: int, columns: int, candidates: int = 1) -> tuple[PipelineSpec, Run]:
    """A spec over rows that a third of the columns tell something of."""
    home = folder / name
    home.mkdir()
    draw = np.random.default_rng(7)
    values = draw.normal(size=(rows, columns)).astype(np.float32)
    signal = values[:, : 1 + columns // 3].sum(axis=1) + draw.normal(size=rows)
    frame = pd.DataFrame(values, columns=[f"f{at}" for at in range(columns)])
    frame.assign(y=np.where(signal > 0, "1", "0")).to_parquet(home / "rows.parquet")
    named = ", ".join(CANDIDATE.format(at=at, rounds=50 + at) for at in range(candidates))
    text = SPEC.format(name=name, candidates=named)
    (home / "spec.yaml").write_text(text, encoding="utf-8")
    return parse_spec(text, name), Run("grown", name, tracked(folder), home / "spec.yaml")
