"""The house's laws that no linter holds."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from pipeline.graph import STEPS, producer
from pipeline.run import Run
from pipeline.spec import PipelineSpec

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("pipeline", "training", "feature_checks", "serving", "dags")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
MAX_LINES = 300
ONE_IMPORTER = {  # an outside system, and who may open it
    "airflow": {"dags"},
    "mlflow": {"pipeline/registry.py", "pipeline/tracking.py"},
    "great_expectations": {"feature_checks/gx.py"},
    "duckdb": {"feature_checks/database.py"},
    "xgboost": {"training/models/boosted.py"},
    "ray": {"training/on_ray"},
    "onnxmltools": {"training"},
    "onnx": {"training", "serving/external_data.py"},
    "tritonclient": {"serving/triton.py"},
    "deepeval": {"serving/gates/evals.py"},
    "openai": {"serving/gates/judge_model.py"},
    "fairlearn": {"serving/gates/fairness.py"},
    "supervisor": {"pipeline"},
    "openlineage": {"pipeline/openlineage.py"},
    "kubernetes": {"pipeline/cluster.py", "dags/pod_operator.py"},  # the second knows the errors of Airflow's provider
    "kubernetes_asyncio": {"dags/pod_trigger.py"},
}
HEAVY = ("torch", "ray", "xgboost", "mlflow", "sklearn", "pandas", "great_expectations", "onnx", "deepeval")


@pytest.mark.heavy
def test_every_step_has_the_signature_that_the_graph_gives_it() -> None:
    """Import every step: a decorator can change the signature that the source shows."""
    wrong = []
    for step in STEPS:
        function = getattr(importlib.import_module(step.module), step.name)
        hints = typing.get_type_hints(function)
        every = [hints[name] for name in inspect.signature(function).parameters]
        read = [hint for hint in every if hint not in (PipelineSpec, Run)]
        gathered = {typing.get_args(hint)[0] for hint in read if typing.get_origin(hint) is tuple}
        consumed = {hint for hint in read if typing.get_origin(hint) is not tuple}
        if (hints["return"], consumed, gathered) != (step.produces, set(step.consumes), set(step.gathers)):
            wrong.append(f"{step.target}: {read} -> {hints['return']}")
    assert wrong == []


def test_each_reference_has_one_producer() -> None:
    assert len({step.produces for step in STEPS}) == len(STEPS)
    for at, step in enumerate(STEPS):
        assert all(STEPS.index(producer(ref)) < at for ref in (*step.consumes, *step.gathers))


def test_every_file_is_short_and_says_what_it_is_for() -> None:
    wrong = []
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        if (lines := len(text.splitlines())) > MAX_LINES:
            wrong.append(f"{path.relative_to(ROOT)}: {lines} lines, more than {MAX_LINES}")
        if text.strip() and not ast.get_docstring(ast.parse(text)):
            wrong.append(f"{path.relative_to(ROOT)}: no docstring")
    assert wrong == []


def test_every_outside_system_has_its_importers_and_no_others() -> None:
    wrong = []
    for path in FILES:
        name = path.relative_to(ROOT).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {
            node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level
        }
        for system, importers in ONE_IMPORTER.items():
            is_imported = any(module == system or module.startswith(f"{system}.") for module in imported)
            if is_imported and not any(name == allowed or name.startswith(f"{allowed}/") for allowed in importers):
                wrong.append(f"{name} imports {system}")
    assert wrong == []


def test_dags_parse_with_no_ml_library() -> None:
    code = f"import sys, dags.pipelines; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_nothing_happens_when_the_kernel_is_imported(tmp_path: Path) -> None:
    code = "import pipeline.cli, pipeline.step, pipeline.settings, os; print(sorted(os.listdir('.')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
