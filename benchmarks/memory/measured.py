"""`python -m benchmarks.memory.measured WHAT ...`: one step in a process of its own, and the most memory it had."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Thread

from benchmarks.machine import peak_mib
from pipeline.process import settle

SPEC = """version: 1
name: memory
task: {{kind: binary}}
data: {{source: "{source}", target: y}}
candidates:
  - {{kind: xgboost, trials: 1, rounds: {rounds}, budget_s: 3600, device: cpu}}
  - {{kind: torch, trials: 1, epochs: 1, budget_s: 3600, device: cpu}}
"""


def slipway(step: str, source: Path, home: Path, rounds: int, memory_gib: float) -> None:
    """A step of the pipeline as it is run, on an MLflow with no server; the snapshot first, then each candidate."""
    from pipeline.refs import CheckReport, DatasetRef
    from pipeline.run import Run
    from pipeline.settings import Settings
    from pipeline.spec_file import parse_spec
    from pipeline.step import execute

    settings = Settings(home=home, mlflow_uri=f"sqlite:///{home}/mlflow.db", memory_gib=memory_gib)
    spec = parse_spec(SPEC.format(source=source, rounds=rounds), "memory")
    run = Run("r1", spec.name, settings, home / "memory.yaml")
    if step == "snapshot":
        from training.snapshot import snapshot

        execute(snapshot, spec, run)
        return
    from training.train import train

    run.ref(DatasetRef)
    run.finish("check", CheckReport(passed=True, suite=None, suite_digest=None, evaluated=0), 0.0)
    execute(train, spec, replace(run, candidate=step))


def everyone(source: Path, rounds: int) -> None:
    """How it is done everywhere: pandas reads the file, scikit-learn's interface of XGBoost fits it."""
    import pandas as pd
    from sklearn.model_selection import train_test_split
    from xgboost import XGBClassifier

    frame = pd.read_parquet(source)
    train, held = train_test_split(frame, test_size=0.2, random_state=7)
    model = XGBClassifier(n_estimators=rounds, max_depth=6, tree_method="hist", enable_categorical=True)
    model.fit(train.drop(columns="y"), train["y"] == "yes")
    model.predict_proba(held.drop(columns="y"))


def watch_own(found: list[float]) -> None:
    """Append the resident memory that no file backs, in GiB, each 20 ms; mapped files leave where memory is short."""
    status = Path("/proc/self/status")
    while True:
        line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon:"))
        found.append(int(line.split()[1]) / 2**20)
        time.sleep(0.02)


def main(what: str, source: Path, home: Path, rounds: int, memory_gib: float) -> None:
    """Print seconds, and the peaks of resident memory and of what of it no file backs, in GiB, as JSON."""
    settle()
    os.chdir(home)  # where an MLflow with no server puts its files
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    work: Callable[[], None] = (
        (lambda: everyone(source, rounds))
        if what == "everyone"
        else lambda: slipway(what, source, home, rounds, memory_gib)
    )
    own: list[float] = []
    Thread(target=watch_own, args=(own,), daemon=True).start()
    begin = time.perf_counter()
    work()
    seconds, peak = time.perf_counter() - begin, peak_mib() / 1024
    sys.stdout.write(json.dumps({"seconds": seconds, "gib": peak, "own_gib": max(own)}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
