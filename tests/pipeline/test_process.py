"""What processes settle first: threads, the collector, imports ahead, and whose words are a step's log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline.ahead import EXPORT, LATER, import_ahead

ROOT = Path(__file__).resolve().parents[2]
SPEC = """version: 1
name: demo
task: {kind: binary}
data: {source: "sklearn://breast_cancer", target: target}
candidates: [{kind: xgboost}, {kind: torch}]
"""
SETTLED = """
import atexit, gc, json, os
atexit.register(lambda: print(json.dumps([before, settled, os.environ["OMP_WAIT_POLICY"], gc.get_freeze_count() > 0])))
before = gc.get_threshold()
from pipeline.process import settle
settle()
settled = gc.get_threshold()
atexit.register(lambda: print(gc.get_freeze_count()))
"""
EXPORTED = """
import sys
from types import SimpleNamespace
from torch import nn
from training.onnx_model import network_graph
network_graph(SimpleNamespace(module=nn.Linear(3, 2)), 3)
print([name for name in sys.argv[1:] if name not in sys.modules])
"""
STEP = """
import logging
from pipeline.errors import Problem, Rejected
from pipeline.refs import DatasetRef
from pipeline.run import Run
from pipeline.spec import PipelineSpec
from pipeline.step import main

logging.root.setLevel(logging.INFO)  # as a task of Airflow finds it

def snapshot(spec: PipelineSpec, run: Run) -> DatasetRef:
    logging.getLogger("another").info("to itself")
    logging.getLogger("another").warning("to everybody")
    run.log.info("rows are read")
    raise Rejected([Problem("no", "here", "mend it")])

main(snapshot)
"""


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=variables, capture_output=True, text=True, check=False
    )


def test_the_collector_looks_seldom_and_not_at_the_end() -> None:
    done = python(SETTLED, OMP_WAIT_POLICY="ACTIVE")  # what is set already stays
    while_it_ends, said = done.stdout.splitlines()
    before, settled, policy, is_frozen = json.loads(said)
    assert settled > before
    assert (policy, int(while_it_ends), is_frozen) == ("ACTIVE", 0, True)


def is_installed(module: str) -> bool:
    """Return whether the file of a module exists; its packages are not imported."""
    package, *parts = module.split(".")
    spec = find_spec(package)
    places = [] if spec is None else [Path(place, *parts) for place in spec.submodule_search_locations or ()]
    return any(place.is_dir() or place.with_suffix(".py").is_file() for place in places)


def test_what_is_imported_ahead_is_there() -> None:
    assert [module for module in LATER if not is_installed(module)] == []
    assert not is_installed("training.models.neural.none")
    assert not is_installed("torch.none")


@pytest.mark.heavy
def test_an_export_of_a_network_imports_what_is_imported_ahead_of_it() -> None:
    model, *others = EXPORT["torch"]
    assert model == "training.models.neural"  # whose class the exported module has
    done = python(EXPORTED, *others)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


def test_what_cannot_be_imported_is_left_to_whom_it_concerns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("wrong_one", "1 / 0"), ("right_one", "")):
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    import_ahead(["wrong_one", "not_there", "right_one"])
    assert "right_one" in sys.modules
    assert "wrong_one" not in sys.modules


def test_a_steps_log_has_what_it_says_and_what_others_warn_of(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").write_text(SPEC)
    options = ("--spec", str(tmp_path / "demo.yaml"), "--run", "r")
    done = python(STEP, *options, SLIPWAY_HOME=str(tmp_path / "home"))
    assert done.returncode == 3
    assert "INFO rows are read" in done.stderr
    assert "WARNING to everybody" in done.stderr
    assert "to itself" not in done.stderr
