"""From rows to a served champion: in one process, and by the real Airflow; refused, rolled back, traced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

SPEC = """version: 1
name: {name}
task: {{kind: {kind}}}
data: {{source: {source}, target: y}}
candidates:
  - {{kind: xgboost, trials: 2, folds: 2, rounds: 40}}
{more}gates:
  quality: {quality}
  latency: {{rate_per_s: 50, duration_s: 0.4, p95_ms: 2000}}
  champion: {{margin: 0.2}}
  calibration: {{max_error: 0.5}}
"""  # forty small steps leave a model unsure of what it could know, and the gate would say so


CHOSEN = ("root", "home", "airflow_port", "mlflow_port", "triton_http_port", "triton_grpc_port", "triton_metrics_port", "triton_dir")  # fmt: skip


def slipway(settings: Settings, *arguments: str, code: int = 0) -> Any:
    """Call the command as a person does, and return its JSON.

    `run` is a process of its own: it forks, which a process whose tests have used threads of OpenMP cannot do.
    """
    environment = {f"SLIPWAY_{name.upper()}": str(getattr(settings, name)) for name in CHOSEN}
    if arguments[0] == "run":
        command = [sys.executable, "-m", "pipeline.cli", *arguments, "--json"]
        ended = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
        exit_code, text, output = ended.returncode, ended.stdout, ended.stdout + ended.stderr
    else:
        done = CliRunner().invoke(app, [*arguments, "--json"], env=environment)
        exit_code, text, output = done.exit_code, done.stdout, done.output
    assert exit_code == code, output
    assert "Traceback" not in output
    try:
        return json.loads(text)
    except ValueError:
        raise AssertionError(output) from None


def table(kind: str, rows: int = 400) -> pd.DataFrame:
    """Every kind of column, with missing values."""
    import numpy as np
    import pandas as pd

    draw = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "amount": draw.lognormal(2, 1, rows),
            "member": draw.choice(["yes", "no"], rows),
            "colour": draw.choice(["red", "green", "blue", None], rows),
            "since": pd.Timestamp("2026-01-01") + pd.to_timedelta(draw.integers(0, 10**7, rows), unit="s"),
        }
    )
    signal = np.log(frame["amount"]) + (frame["member"] == "yes") + 0.2 * draw.normal(size=rows)
    frame.loc[::9, "amount"] = np.nan
    if kind == "regression":
        return frame.assign(y=signal)
    cuts = [2.5] if kind == "binary" else [2.0, 3.0]
    return frame.assign(y=np.array(["low", "middle", "high"])[np.digitize(signal, cuts)])


def write(settings: Settings, name: str, kind: str, quality: str, more: str = "") -> Path:
    table(kind).to_csv(settings.root / f"{name}.csv", index=False)
    path = settings.specs_dir / f"{name}.yaml"
    path.write_text(SPEC.format(name=name, kind=kind, source=f"../../{name}.csv", quality=quality, more=more))
    return path


def check_champion(settings: Settings, name: str, kind: str, found: dict[str, Any], folder: Path) -> None:
    """Check what the first run of a pipeline has left: version 1 is served, and its lineage is complete."""
    from serving.gate import GATES

    assert found["outcome"] == "promoted", found["reasons"]
    assert (found["promotion"]["version"], found["promotion"]["previous"]) == (1, None)
    assert [verdict["gate"] for verdict in found["gates"]["verdicts"]] == [gate.name for gate in GATES]
    assert all(verdict["outcome"] == "passed" for verdict in found["gates"]["verdicts"])
    answer = subprocess.run(["bash", "-c", found["curl"]], capture_output=True, text=True, check=True).stdout
    assert json.loads(answer)["model_version"] == "1"
    table(kind, 30).drop(columns="y").to_csv(folder / "new.csv", index=False)
    assert len(slipway(settings, "predict", name, str(folder / "new.csv"))["answers"]) == 30
    traced = slipway(settings, "lineage", f"{settings.triton_http}/{name}")
    facts = {node["kind"]: node["facts"] for node in traced["nodes"]}
    assert facts["version"]["aliases"] == "@champion"
    assert facts["endpoint"]["digest"] == facts["onnx"]["digest"]
    assert not [node for node in traced["nodes"] if node["problem"]]
    found_again = slipway(settings, "lineage", facts["dataset"]["digest"])["nodes"]
    versions = {node["id"] for node in traced["nodes"] if node["kind"] == "version"}
    assert versions <= {node["id"] for node in found_again}
    assert any(node["kind"] == "endpoint" for node in found_again)
    page = httpx.get(found["addresses"]["MLflow"].split("#")[0])
    assert page.is_success


@pytest.mark.parametrize(
    ("kind", "quality"),
    [("multiclass", "{at_least: {balanced_accuracy: 0.4}}"), ("regression", "{at_least: {r2: 0.2}}")],
)
def test_a_csv_becomes_a_served_champion(kind: str, quality: str, stack_settings: Settings, tmp_path: Path) -> None:
    name = f"whole_{kind}"
    write(stack_settings, name, kind, quality)
    check_champion(stack_settings, name, kind, slipway(stack_settings, "run", name), tmp_path)


@pytest.mark.smoke
def test_a_champion_is_served_a_run_goes_on_a_bad_model_is_refused_and_the_way_back(
    stack_settings: Settings, tmp_path: Path
) -> None:
    path = write(stack_settings, "guarded", "binary", "{at_least: {roc_auc: 0.7}}")
    first = slipway(stack_settings, "run", "guarded")
    check_champion(stack_settings, "guarded", "binary", first, tmp_path)
    runs = Path(stack_settings.store) / "runs" / "guarded" / first["run"]
    before = {file.name: file.stat().st_mtime_ns for file in runs.glob("*.json")}
    (runs / "promote.json").unlink()  # as if it had been cut off there
    again = slipway(stack_settings, "run", "guarded", "--run-id", first["run"])
    assert again["promotion"] == first["promotion"]
    assert [file.name for file in runs.glob("*.json") if file.stat().st_mtime_ns != before[file.name]] == [
        "promote.json"
    ]

    path.write_text(path.read_text().replace("roc_auc: 0.7", "roc_auc: 0.9999"))
    refused = slipway(stack_settings, "run", "guarded", code=3)
    assert refused["outcome"] == "rejected"
    assert "0.9999 is asked" in refused["reasons"][0]
    assert slipway(stack_settings, "lineage", "guarded")["start"] == ["version/guarded/1"]
    assert slipway(stack_settings, "lineage", "guarded/2", "--down")["start"] == ["version/guarded/2"]
    path.write_text(path.read_text().replace("roc_auc: 0.9999", "roc_auc: 0.7"))
    assert slipway(stack_settings, "run", "guarded", "--seed", "9")["promotion"]["previous"] == 1
    assert slipway(stack_settings, "rollback", "guarded")["version"] == 1
    assert slipway(stack_settings, "lineage", "guarded@champion")["start"] == ["version/guarded/1"]
    slipway(stack_settings, "lineage", "guarded@nobody", code=2)
    slipway(stack_settings, "lineage", "guarded/99", code=2)


TORCH = "  - {kind: torch, trials: 1, folds: 2, epochs: 4}\n"


@pytest.fixture(scope="module")
def airflow_champion(airflow_settings: Settings) -> dict[str, Any]:
    """The result of the first run of the pipeline `by_airflow`, which Airflow has run."""
    write(airflow_settings, "by_airflow", "binary", "{at_least: {roc_auc: 0.7}}", TORCH)
    result: dict[str, Any] = slipway(airflow_settings, "trigger", "by_airflow", "--wait")
    return result


@pytest.mark.smoke
def test_the_dag_takes_a_spec_to_a_champion(airflow_champion: dict[str, Any]) -> None:
    assert airflow_champion["outcome"] == "promoted", airflow_champion
    assert len(airflow_champion["tasks"]) == 13


def test_the_dag_shows_a_refusal_and_the_champion_serves_on(
    airflow_settings: Settings, airflow_champion: dict[str, Any], tmp_path: Path
) -> None:
    table("binary", 30).drop(columns="y").to_csv(tmp_path / "new.csv", index=False)

    def served() -> tuple[Any, ...]:
        answers = slipway(airflow_settings, "predict", "by_airflow", str(tmp_path / "new.csv"))["answers"]
        versions = httpx.get(f"http://{airflow_settings.triton_http}/v2/models/by_airflow").json()["versions"]
        return answers, versions, slipway(airflow_settings, "lineage", "by_airflow@champion")["start"]

    assert airflow_champion["outcome"] == "promoted", airflow_champion
    champion = served()
    assert champion[1:] == (["1"], ["version/by_airflow/1"])
    path = airflow_settings.specs_dir / "by_airflow.yaml"
    wait = ("trigger", "by_airflow", "--wait")
    refused = slipway(airflow_settings, *wait, "--source", "../../none.csv", code=1)
    assert "there is no such file" in refused["problems"][0]["what"]
    suite = {"expectations": [{"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 10**6}}]}
    (airflow_settings.suites_dir / "strict.json").write_text(json.dumps(suite))
    path.write_text(path.read_text().replace(TORCH, "") + "checks: {suite: strict}\n")
    refused = slipway(airflow_settings, *wait, code=3)
    assert refused["outcome"] == "rejected"
    assert "observed 400" in refused["reasons"][0]
    assert served() == champion
